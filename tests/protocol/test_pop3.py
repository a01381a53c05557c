"""POP3 as values: lines, arguments, and messages on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.pop3 import (
    encode_message,
    encode_top,
    leading_number,
    parse_command,
)

CHUNKS = st.lists(st.text("a.\r\n", max_size=9).map(str.encode), max_size=9)


@pytest.mark.contract("pop3 1.7", "pop3 4.8")
@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"pAsS  a b ", (b"pass", b"a b ")),
        (b"PASS a\0b", (b"pass", b"a")),
        (b"PA\0SS a", (b"pa", b"")),
        (b" USER x", (b"", b"USER x")),
        (b"USER\tx", (b"user\tx", b"")),
        (b"", (b"", b"")),
        (b"STAT\r", (b"stat", b"")),
        (b"a\r\r", (b"a\r", b"")),
    ],
    ids=["case and blanks", "NUL in the argument", "NUL in the verb", "leading blank", "a tab is no blank", "empty"]
    + ["CR LF", "one CR is dropped"],
)
def test_commands(line: bytes, command: tuple[bytes, bytes]) -> None:
    assert parse_command(line) == command


@pytest.mark.contract("pop3 3.33")
@pytest.mark.parametrize(
    ("text", "number"),
    [(b"2abc", (2, b"abc")), (b"1 x", (1, b" x")), (b"x1", (None, b"x1")), (b"", (None, b"")), (b"-1", (None, b"-1"))],
    ids=str,
)
def test_numbers_are_leading_digits(text: bytes, number: tuple[int | None, bytes]) -> None:
    assert leading_number(text) == number


def test_a_number_of_a_million_digits_is_only_large() -> None:
    number, _ = leading_number(b"9" * 1_000_000)
    assert number is not None and number > 1 << 50


@pytest.mark.contract("pop3 3.21", "pop3 3.22", "pop3 3.23", "pop3 3.24", "pop3 3.27", "pop3 3.28")
@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (b"a: b\n\nbody\n", b"a: b\r\n\r\nbody\r\n\r\n.\r\n"),
        (b"a\r\nb\n", b"a\r\r\nb\r\n\r\n.\r\n"),
        (b".\n..\nx.y\n.", b"..\r\n...\r\nx.y\r\n..\r\n\r\n.\r\n"),
        (b"half", b"half\r\n\r\n.\r\n"),
        (b"", b"\r\n.\r\n"),
        (b"Status: R\nX-UIDL: 1\n\n", b"Status: R\r\nX-UIDL: 1\r\n\r\n\r\n.\r\n"),
        (b"\0\xff\n", b"\0\xff\r\n\r\n.\r\n"),
    ],
    ids=["plain", "CR stays", "dots", "no last LF", "empty", "Status stays", "any byte"],
)
def test_a_message_on_the_wire(message: bytes, wire: bytes) -> None:
    assert b"".join(encode_message([message])) == wire


@pytest.mark.contract("pop3 3.25", "pop3 3.26")
@pytest.mark.parametrize(
    ("lines", "wire"),
    [
        (0, b"a\r\n\r\r\nb\r\n\r\n\r\n.\r\n"),
        (1, b"a\r\n\r\r\nb\r\n\r\n1\r\n\r\n.\r\n"),
        (2, b"a\r\n\r\r\nb\r\n\r\n1\r\n\r\n\r\n.\r\n"),
        (9, b"a\r\n\r\r\nb\r\n\r\n1\r\n\r\n..3\r\n\r\n.\r\n"),
    ],
    ids=["no line", "one line", "two lines, one of them empty", "more than there are"],
)
def test_top(lines: int, wire: bytes) -> None:
    assert b"".join(encode_top([b"a\n\r\nb\n\n1\n\n.3"], lines)) == wire


@given(CHUNKS)
def test_chunks_do_not_matter(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    assert b"".join(encode_message(chunks)) == b"".join(encode_message([whole]))
    for lines in range(3):
        assert b"".join(encode_top(chunks, lines)) == b"".join(encode_top([whole], lines))


@given(CHUNKS)
def test_a_client_gets_back_the_lines(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    sent = b"".join(encode_message(chunks))
    assert sent.endswith(b"\r\n.\r\n")
    lines = sent.removesuffix(b"\r\n.\r\n").split(b"\r\n")[:-1]
    assert all(line != b"." for line in lines)
    kept = [line[1:] if line.startswith(b".") else line for line in lines]
    assert kept == (whole.removesuffix(b"\n").split(b"\n") if whole else [])
