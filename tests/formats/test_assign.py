"""users/assign (contract: users sections 2 and 3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.assign import AssignFormat, parse_assign


@pytest.mark.contract("users 2.1", "users 2.2", "users 2.3", "users 3.5", "users 3.6", "users 8.3")
def test_lines_become_records_and_the_special_one_is_last() -> None:
    data = b"=Joe:joe:5:6:/home/joe::e:ignored\n+joE-:joe:5:6:/home/joe:-:pre:\n+:alias:1:1:/a:-::\n. end\nrest"
    assert list(parse_assign(data)) == [
        (b"!joe\0", b"joe\x005\x006\0/home/joe\0\0e"),
        (b"!joe-", b"joe\x005\x006\0/home/joe\0-\0pre"),
        (b"!", b"alias\x001\x001\0/a\0-\0"),
        (b"", b"-"),
    ]


@pytest.mark.contract("users 3.7", "spawn 9.7")
def test_the_special_record_is_always_there_and_keeps_the_spelling() -> None:
    assert list(parse_assign(b".")) == [(b"", b"")]
    data = b"+Joe-X:j:1:1:/:-::\n+b-:j:1:1:/:-::\n+c-:j:1:1:/:-::\n.\n"
    assert list(parse_assign(data))[-1] == (b"", b"X-")


@pytest.mark.contract("users 2.6", "users 8.13")
def test_any_other_first_byte_is_an_exact_assignment() -> None:
    assert next(parse_assign(b" joe:j:1:1:/:-::\n.\n"))[0] == b"!joe\0"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="an empty file"),
        pytest.param(b"=joe:j:1:1:/:-::\n", id="no final dot"),
        pytest.param(b"=joe:j:1:1:/:-::", id="no final newline"),
        pytest.param(b"=joe:j:1:1:/:-:\n.\n", id="a colon too few"),
        pytest.param(b":joe:j:1:1:/:-::\n.\n", id="a colon first"),
        pytest.param(b"\n.\n", id="a blank line"),
        pytest.param(b"# comment\n.\n", id="a comment"),
        pytest.param(b"=j\0oe:j:1:1:/:-::\n.\n", id="a NUL"),
        pytest.param(b"=joe:j:1:1:/:-::.\n", id="a dot glued to the last line"),
    ],
)
@pytest.mark.contract("users 2.4", "users 2.5", "users 2.7", "users 2.8", "users 8.1", "users 8.2")
def test_one_bad_line_spoils_the_file(data: bytes) -> None:
    with pytest.raises(AssignFormat):
        list(parse_assign(data))


@given(st.binary())
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        list(parse_assign(data))
    except AssignFormat:
        pass
