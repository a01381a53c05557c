"""Where a header ends and what its fields are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.header import Header, field_name

LINES = st.one_of(
    st.binary(), st.lists(st.sampled_from([b"To", b":", b" ", b"\n", b"\r", b"x", b"From "])).map(b"".join)
)


def parse(text: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields of ``text``, and all that follows them."""
    header = Header()
    lines = [line + b"\n" for line in text.removesuffix(b"\n").split(b"\n")] if text else []
    for number, line in enumerate(lines):
        if not header.add(line):
            return header.fields, header.rest + b"".join(lines[number + 1 :])
    header.end()
    return header.fields, b""


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"To: x", b"to"),
        (b"X-Y\t :z", b"x-y"),
        (b"a:b:c", b"a"),
        (b": x", None),
        (b"to x: y", None),
        (b"T\xe9: x", None),
        (b"T\x7f: x", None),
        (b"no colon", None),
        (b" To: x", None),
    ],
)
def test_field_names(line: bytes, name: bytes | None) -> None:
    assert field_name(line) == name


@pytest.mark.parametrize(
    ("text", "fields", "rest"),
    [
        pytest.param(b"", [], b"", id="nothing"),
        pytest.param(b"\nx\n", [], b"\nx\n", id="an empty line first"),
        pytest.param(b"x\n", [], b"\nx\n", id="no header gets an empty line"),
        pytest.param(b" x\nTo: a\n", [], b"\n x\nTo: a\n", id="a continuation of nothing"),
        pytest.param(b"To: a\n b\n\tc\n\nx\n", [(b"to", b"To: a\n b\n\tc\n")], b"\nx\n", id="folded"),
        pytest.param(b"To: a\n \n\n", [(b"to", b"To: a\n \n")], b"\n", id="a blank line continues"),
        pytest.param(b"To: a\r\n\r\nx\n", [(b"to", b"To: a\r\n")], b"\n\r\nx\n", id="CR LF is no empty line"),
        pytest.param(b"From a\n b\n\n", [(b"mbox-line", b"MBOX-Line: From a\n b\n")], b"\n", id="mbox line"),
    ],
)
def test_headers(text: bytes, fields: list[tuple[bytes, bytes]], rest: bytes) -> None:
    assert parse(text) == (fields, rest)


def test_a_last_line_without_newline_gets_one() -> None:
    header = Header()
    assert header.add(b"To: a")
    header.end()
    assert header.fields == [(b"to", b"To: a\n")]


@given(LINES)
def test_nothing_is_lost(text: bytes) -> None:
    header = Header()
    lines = [line + b"\n" for line in text.split(b"\n")]
    taken = 0
    while taken < len(lines) and header.add(lines[taken]):
        taken += 1
    header.end()
    kept = b"".join(field.removeprefix(b"MBOX-Line: ") for _name, field in header.fields)
    original = b"".join(lines[:taken])
    assert kept == original or b"MBOX-Line: " in original
