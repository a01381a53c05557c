"""PROXY headers: each form in any pieces, and not a byte of what follows them."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.proxy import OWN, SIGNATURE, Header, HeaderReader, NoHeader

V4 = Header(("192.0.2.1", 56324), ("198.51.100.1", 25))
V6 = Header(("2001:db8::1", 1), ("2001:db8::2", 65535))


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def addresses(header: Header) -> bytes:
    assert header.source is not None and header.destination is not None
    kind = socket.AF_INET6 if ":" in header.source[0] else socket.AF_INET
    ends = (header.source, header.destination)
    return b"".join(socket.inet_pton(kind, ip) for ip, _ in ends) + struct.pack("!HH", *(port for _, port in ends))


HEADERS = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\r\n", V4),
    (b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 1 65535\r\n", V6),
    (b"PROXY UNKNOWN\r\n", OWN),
    (b"PROXY UNKNOWN ffff:f...f:ffff " + b"f" * 60 + b"\r\n", OWN),
    (v2(0x21, 0x11, addresses(V4)), V4),
    (v2(0x21, 0x21, addresses(V6)), V6),
    (v2(0x21, 0x11, addresses(V4) + b"\x20\x00\x05\x01\0\0\0\0" * 8000), V4),
    (v2(0x20, 0x00, b""), OWN),
    (v2(0x20, 0x11, b""), OWN),
    (v2(0x20, 0x11, addresses(V4)), OWN),
    (v2(0x21, 0x00, b"\x04\0\0"), OWN),
    (v2(0x21, 0x31, b"/" * 216), OWN),
]
NONE = [
    b"EHLO client.test\r\n",
    b"\r\n\r\n\0\r\nQUIX\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 25 7\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.1 56324 25\r\n",
    b"PROXY TCP4 2001:db8::1 198.51.100.1 56324 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 -1 25\r\n",
    b"PROXY TCP4 192.0.2.1\x00 198.51.100.1 1 25\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.1 1 25\r\n",
    b"PROXY TCP4 " + b"1" * 200,
    v2(0x11, 0x11, addresses(V4)),
    v2(0x22, 0x11, addresses(V4)),
    v2(0x21, 0x11, addresses(V4)[:-1]),
    v2(0x21, 0x21, addresses(V4)),
]


def read(data: bytes, piece: int) -> tuple[Header | None, int]:
    """The header that ``data`` begins with, and how many bytes were taken."""
    reader, at = HeaderReader(), 0
    while reader.header is None and at < len(data):
        taken = data[at : at + min(piece, reader.wanted)]
        reader.feed(taken)
        at += len(taken)
    return reader.header, at


@pytest.mark.parametrize("piece", [1, 7, 65536])
@pytest.mark.parametrize(("data", "header"), HEADERS)
def test_a_header_is_read_whole_and_nothing_behind_it(data: bytes, header: Header, piece: int) -> None:
    assert read(data + b"EHLO client.test\r\n", piece) == (header, len(data))
    assert read(data[:-1], piece)[0] is None


@pytest.mark.parametrize("piece", [1, 65536])
@pytest.mark.parametrize("data", NONE)
def test_what_is_none_is_refused(data: bytes, piece: int) -> None:
    with pytest.raises(NoHeader) as found:
        read(data, piece)
    assert "192" not in str(found.value)


@given(st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"]), st.binary(max_size=300))
def test_any_bytes_end_in_bounds(begin: bytes, data: bytes) -> None:
    try:
        _, taken = read(begin + data, 64)
    except NoHeader:
        return
    assert taken <= len(begin + data)
