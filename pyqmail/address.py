"""Envelope addresses as bytes: the split at the last @ and RFC 822 quoting of the local part."""

_PLAIN = frozenset(b"!#$%&'*+-/0123456789=?ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz{|}~.")


def split(address: bytes) -> tuple[bytes, bytes | None]:
    """The local part and the domain of ``address``, split at its last ``@``; the domain is None without one."""
    box, at, host = address.rpartition(b"@")
    return (box, host) if at else (address, None)


def needs_quotes(box: bytes) -> bool:
    """Whether the local part ``box`` is no RFC 822 dot-atom and must be written as a quoted-string."""
    if not box or box[:1] == b"." or box[-1:] == b"." or b".." in box:
        return True
    return not _PLAIN.issuperset(box)


def quote_box(box: bytes) -> bytes:
    """``box`` as it is written in a header or SMTP command: a quoted-string where RFC 822 needs one."""
    if not needs_quotes(box):
        return box
    for special in (b"\\", b'"', b"\r", b"\n"):
        box = box.replace(special, b"\\" + special)
    return b'"' + box + b'"'


def quote(address: bytes) -> bytes:
    """``address`` with its local part quoted; the empty address stays empty."""
    box, host = split(address)
    if host is None:
        return quote_box(address) if address else b""
    return quote_box(box) + b"@" + host


def quote_utf8(address: bytes) -> bytes:
    """As ``quote`` where SMTPUTF8 holds: characters beyond ASCII need no quotes (RFC 6531 section 3.3)."""
    try:
        characters = address.decode()
    except UnicodeDecodeError:
        return quote(address)
    plain = quote("".join(one if one.isascii() else "x" for one in characters).encode())
    return quote(address) if plain.startswith(b'"') else address
