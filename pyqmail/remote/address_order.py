"""In which order the addresses of one host are tried: destination address selection (RFC 6724 section 6).

Of its rules those that an application can see: usable before unusable (1), matching scope (2), matching label (5),
higher precedence (6), smaller scope (8), longest matching prefix (9, IPv6 only), else the order received (10). Among
IPv4 addresses the order received always stands, since servers use it to spread load.
"""

from collections.abc import Callable, Sequence

SourceOf = Callable[[bytes], bytes | None]  # the address this machine would speak from; None when it has no way there

_MAPPED = bytes(10) + b"\xff\xff"
# RFC 6724 section 2.1: prefix, its length in bits, precedence, label; the longest match counts
_POLICY = (
    (bytes(15) + b"\1", 128, 50, 0),
    (bytes(16), 0, 40, 1),
    (_MAPPED + bytes(4), 96, 35, 4),
    (b"\x20\x02" + bytes(14), 16, 30, 2),
    (b"\x20\x01" + bytes(14), 32, 5, 5),
    (b"\xfc" + bytes(15), 7, 3, 13),
    (bytes(16), 96, 1, 3),
    (b"\xfe\xc0" + bytes(14), 10, 1, 11),
    (b"\x3f\xfe" + bytes(14), 16, 1, 12),
)
_LINK_LOCAL, _SITE_LOCAL, _GLOBAL = 2, 5, 14
_SOURCE_PREFIX_MAX = 64  # bits compared by rule 9: an interface's own prefix, by convention


def _wide(packed: bytes) -> bytes:
    return _MAPPED + packed if len(packed) == 4 else packed


def common_prefix(one: bytes, other: bytes) -> int:
    """How many leading bits the two 16-byte addresses share."""
    return 128 - (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_length()


def _policy(packed: bytes) -> tuple[int, int]:
    """Precedence and label of an address."""
    wide = _wide(packed)
    matches = (row for row in _POLICY if common_prefix(wide, row[0]) >= row[1])
    _, _, precedence, label = max(matches, key=lambda row: row[1])
    return precedence, label


def _scope(packed: bytes) -> int:
    """The scope of a unicast address (RFC 6724 section 3.1 and 3.2), as the number that multicast uses for it."""
    if len(packed) == 4:
        return _LINK_LOCAL if packed[0] == 127 or packed[:2] == b"\xa9\xfe" else _GLOBAL
    if packed == bytes(15) + b"\1" or (packed[0] == 0xFE and packed[1] & 0xC0 == 0x80):
        return _LINK_LOCAL
    return _SITE_LOCAL if packed[0] == 0xFE and packed[1] & 0xC0 == 0xC0 else _GLOBAL


def _rank(packed: bytes, source: bytes | None) -> tuple[int, ...]:
    """What sorts first comes first; one entry for each rule."""
    precedence, label = _policy(packed)
    scope = _scope(packed)
    if source is None:
        return (1, 0, 0, -precedence, scope, 0)
    shared = 0
    if len(packed) == len(source) == 16:
        shared = min(common_prefix(packed, source), _SOURCE_PREFIX_MAX)
    return (0, int(_scope(source) != scope), int(_policy(source)[1] != label), -precedence, scope, -shared)


def order(addresses: Sequence[bytes], source_of: SourceOf) -> list[bytes]:
    """The packed ``addresses`` as they should be tried."""
    if all(len(packed) == 4 for packed in addresses) or len(addresses) < 2:
        return list(addresses)
    return sorted(addresses, key=lambda packed: _rank(packed, source_of(packed)))


def ipv4_first(addresses: Sequence[bytes]) -> list[bytes]:
    """The packed ``addresses``, IPv4 before IPv6, else in their order (control/preferipv4)."""
    return sorted(addresses, key=len)
