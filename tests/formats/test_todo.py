"""Records of todo and recipient files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.todo import RecipientParser, Todo, UnknownRecord, parse_todo


def test_records_in_any_order() -> None:
    assert parse_todo(b"Ta\0u5\0Fs\0p7\0Tb\0") == Todo(b"s", (b"a", b"b"), 5, 7)


@pytest.mark.contract("queue 3.2")
@pytest.mark.parametrize("data", [b"u1\0Xx\0", b"\0", b"u1\0Fs"], ids=["other", "empty", "cut"])
def test_anything_else_is_unknown(data: bytes) -> None:
    with pytest.raises(UnknownRecord):
        parse_todo(data)


@given(st.binary())
def test_only_its_own_failure(data: bytes) -> None:
    try:
        parse_todo(data)
    except UnknownRecord:
        pass


@given(st.integers(1, 9))
def test_recipients_survive_any_chunking(size: int) -> None:
    data = b"Tann@x\0Dbob@y\0Tcut"
    parser = RecipientParser()
    got = [record for start in range(0, len(data), size) for record in parser.feed(data[start : start + size])]
    assert got == [(0, b"T", b"ann@x"), (7, b"D", b"bob@y")]
