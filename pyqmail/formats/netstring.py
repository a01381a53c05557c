"""Netstrings: LENGTH ``:`` BYTES ``,`` (the wire of QMTP and QMQP)."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LENGTH_MAX = 200000000  # a number above this that goes on is too much, as the original says


class NetstringError(Exception):
    """The bytes are no netstring."""


class NetstringTooLong(NetstringError):
    """The length is beyond what anyone takes."""


def format_netstring(data: bytes) -> bytes:
    """``data`` as one netstring."""
    return b"%d:%b," % (len(data), data)


def format_netstrings(items: "Iterable[bytes]") -> bytes:
    """Each of ``items`` as a netstring, one after another."""
    return b"".join(map(format_netstring, items))


def parse_netstrings(data: bytes) -> list[bytes]:
    """The netstrings that ``data`` is made of. Raises NetstringError."""
    found, at = [], 0
    while at < len(data):
        colon = data.find(b":", at, at + 21)
        if colon < 0:
            raise NetstringError
        digits = data[at:colon]
        if digits and not digits.isdigit():
            raise NetstringError
        end = colon + 1 + int(digits or b"0")
        if data[end : end + 1] != b",":
            raise NetstringError
        found.append(data[colon + 1 : end])
        at = end + 1
    return found


def scan_length(length: int, data: bytes) -> tuple[int, int | None]:
    """Go on with a length field: the number so far, and how many bytes of ``data`` belong to it, its colon included.

    None instead when the colon has not come yet. No digit at all is 0, as in the original. Raises NetstringError for
    another byte, NetstringTooLong for a number above LENGTH_MAX that has another digit.
    """
    for used, byte in enumerate(data, start=1):
        if byte == 0x3A:
            return length, used
        if length > LENGTH_MAX:
            raise NetstringTooLong
        if not 0x30 <= byte <= 0x39:
            raise NetstringError
        length = 10 * length + byte - 0x30
    return length, None
