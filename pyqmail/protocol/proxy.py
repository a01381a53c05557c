"""The header with which a proxy says who its client is: PROXY protocol, version 1 and 2 (HAProxy, proxy-protocol.txt).

    v1   PROXY TCP4 192.0.2.1 198.51.100.1 56324 25 CR LF     at most 107 bytes; PROXY UNKNOWN ... CR LF
    v2   12 bytes of signature, version and command, family, length (16 bits), addresses, TLVs

A reader is told how many bytes it may read next, so that it takes none of what the client sends behind the header.
TLVs are skipped: nobody vouches for them.
"""

import socket
import struct
from dataclasses import dataclass

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_MAX = 107  # bytes, CR LF included
_V1 = b"PROXY "
_FIXED = struct.Struct("!BBH")  # version and command, family and transport, bytes that follow
_PORTS = struct.Struct("!HH")
_TCP4, _TCP6 = 0x11, 0x21
_FAMILIES = {_TCP4: (socket.AF_INET, 4), _TCP6: (socket.AF_INET6, 16)}
_WORDS = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}


class NoHeader(Exception):
    """What came is no header; the text says why, without a byte of it."""


@dataclass(frozen=True, slots=True)
class Header:
    """Whose connection it is: addresses as text, and ports; the proxy's own (LOCAL, UNKNOWN) has none."""

    source: tuple[str, int] | None
    destination: tuple[str, int] | None


OWN = Header(None, None)


class HeaderReader:
    """Takes a header piece by piece. ``wanted``: how many bytes may be read next; 0 when ``header`` is there."""

    def __init__(self) -> None:
        self.wanted = len(SIGNATURE)
        self.header: Header | None = None
        self._data = b""
        self._length: int | None = None  # of what follows the fixed part of a v2 header
        self._skip = 0
        self._found = OWN

    def feed(self, data: bytes) -> None:
        """Take ``data``, at most ``wanted`` bytes. Raises NoHeader."""
        if self._skip:
            self._skip -= len(data)
            self._end_if_whole()
            return
        self._data += data
        if self._data[:1] == SIGNATURE[:1]:
            self._feed_v2()
        else:
            self._feed_v1()

    def _feed_v1(self) -> None:
        if not self._data.startswith(_V1[: len(self._data)]):
            raise NoHeader("it does not begin with a PROXY header")
        if self._data.endswith(b"\n"):
            self.header = _parse_v1(self._data)
            self.wanted = 0
        elif len(self._data) >= V1_MAX:
            raise NoHeader("the PROXY header is too long")
        else:  # the shortest header has 15 bytes; behind 12 of them the next may be the last
            self.wanted = max(1, len(SIGNATURE) - len(self._data))

    def _feed_v2(self) -> None:
        if not self._data.startswith(SIGNATURE[: len(self._data)]):
            raise NoHeader("it does not begin with a PROXY header")
        head = len(SIGNATURE) + _FIXED.size
        if len(self._data) < head:
            self.wanted = head - len(self._data)
            return
        command, family, length = _FIXED.unpack_from(self._data, len(SIGNATURE))
        if command not in (0x20, 0x21):
            raise NoHeader("the PROXY header is of no known version or command")
        size = _FAMILIES[family][1] * 2 + _PORTS.size if family in _FAMILIES else 0
        if command == 0x21 and length < size:
            raise NoHeader("the PROXY header is too short for its addresses")
        used = min(size, length) if command == 0x21 else 0
        if len(self._data) < head + used:
            self.wanted = head + used - len(self._data)
            return
        self._skip = length - used
        self._found = _parse_v2(family, self._data[head:]) if command == 0x21 and size else OWN
        self._end_if_whole()

    def _end_if_whole(self) -> None:
        self.wanted = self._skip
        if not self._skip:
            self.header = self._found


def _parse_v2(family: int, data: bytes) -> Header:
    kind, size = _FAMILIES[family]
    source, destination = (socket.inet_ntop(kind, data[at : at + size]) for at in (0, size))
    source_port, destination_port = _PORTS.unpack_from(data, 2 * size)
    return Header((source, source_port), (destination, destination_port))


def _parse_v1(line: bytes) -> Header:
    if not line.endswith(b"\r\n"):
        raise NoHeader("the PROXY header does not end with CR LF")
    words = line[:-2].split(b" ")
    if words[1] == b"UNKNOWN":
        return OWN
    if len(words) != 6 or words[1] not in _WORDS:
        raise NoHeader("the PROXY header has not the fields of TCP4 or TCP6")
    kind = _WORDS[words[1]]
    try:
        source, destination = (
            socket.inet_ntop(kind, socket.inet_pton(kind, word.decode("ascii"))) for word in words[2:4]
        )
    except (OSError, ValueError):
        raise NoHeader("an address of the PROXY header is none") from None
    return Header((source, _port(words[4])), (destination, _port(words[5])))


def _port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or int(word) > 65535:
        raise NoHeader("a port of the PROXY header is none")
    return int(word)
