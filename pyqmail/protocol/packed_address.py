"""Packed IP addresses, 4 bytes or 16 (RFC 791, RFC 4291); light, since each server holds it in memory."""


def settle_mapped(packed: bytes) -> bytes:
    """``packed``, with an IPv4 address in IPv6 clothes (``::ffff:a.b.c.d``) as what it is."""
    return packed[12:] if len(packed) == 16 and packed[:12] == bytes(10) + b"\xff\xff" else packed
