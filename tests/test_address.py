"""Addresses: the split at the last @ and quoting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail import address


def test_split_is_at_the_last_at() -> None:
    assert address.split(b'"a@b"@c') == (b'"a@b"', b"c")


def test_no_at_means_no_domain() -> None:
    assert address.split(b"joe") == (b"joe", None)


@pytest.mark.parametrize(
    ("plain", "quoted"),
    [
        pytest.param(b"joe@h", b"joe@h", id="a dot-atom stays as it is"),
        pytest.param(b"", b"", id="the empty address stays empty"),
        pytest.param(b"a b@h", b'"a b"@h', id="a blank needs quotes"),
        pytest.param(b".a@h", b'".a"@h', id="a leading dot needs quotes"),
        pytest.param(b"a.@h", b'"a."@h', id="a trailing dot needs quotes"),
        pytest.param(b"a..b@h", b'"a..b"@h', id="two dots need quotes"),
        pytest.param(b"@h", b'""@h', id="an empty local part is a pair of quotes"),
        pytest.param(b'a"\\@h', b'"a\\"\\\\"@h', id="quote and backslash are escaped"),
        pytest.param(b"\xe9@h", b'"\xe9"@h', id="8-bit needs quotes"),
    ],
)
def test_quoting(plain: bytes, quoted: bytes) -> None:
    assert address.quote(plain) == quoted


@given(st.binary(), st.from_regex(rb"[a-z.]{1,20}", fullmatch=True))
def test_a_quoted_box_unquotes_to_itself(box: bytes, host: bytes) -> None:
    written, _ = address.split(address.quote(box + b"@" + host))
    if written.startswith(b'"') and address.needs_quotes(box):
        plain, escaped = bytearray(), False
        for byte in written[1:-1]:
            if byte == 0x5C and not escaped:
                escaped = True
                continue
            plain.append(byte)
            escaped = False
        assert bytes(plain) == box
    else:
        assert written == box


@pytest.mark.parametrize(
    ("mailbox", "quoted"),
    [
        ("δ@x".encode(), "δ@x".encode()),
        ("δ δ@x".encode(), '"δ δ"@x'.encode()),
        (b"\xe9@x", b'"\xe9"@x'),
        (b"a@x", b"a@x"),
        (b"", b""),
        (b"@x", b'""@x'),
    ],
)
def test_quoting_where_utf_8_is_known(mailbox: bytes, quoted: bytes) -> None:
    assert address.quote_utf8(mailbox) == quoted
