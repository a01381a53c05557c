"""The names of .qmail files and the meaning of their lines (contract local, sections 4 and 5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.dotqmail import candidates, owner_names, parse_lines


def names(dash: bytes, ext: bytes) -> list[bytes]:
    return [name for name, _default in candidates(dash, ext)]


@pytest.mark.contract("local 4.1", "local 4.2", "local 9.1", "local 9.2")
@pytest.mark.parametrize(
    ("dash", "ext", "expected"),
    [
        pytest.param(b"", b"", [b".qmail", b".qmaildefault"], id="the bare user also tries .qmaildefault"),
        pytest.param(b"-", b"", [b".qmail-", b".qmail-default"], id="an empty extension"),
        pytest.param(b"-", b"a", [b".qmail-a", b".qmail-default"], id="a word does not match word-default"),
        pytest.param(
            b"-", b"A.b-C", [b".qmail-a:b-c", b".qmail-a:b-default", b".qmail-default"], id="case and dots fold"
        ),
        pytest.param(
            b"-",
            b"a-b-",
            [b".qmail-a-b-", b".qmail-a-b-default", b".qmail-a-default", b".qmail-default"],
            id="a trailing dash counts",
        ),
        pytest.param(b"-/", b"x", [b".qmail-/x", b".qmail-/default"], id="dash and slash are verbatim"),
    ],
)
def test_names_are_tried_in_order(dash: bytes, ext: bytes, expected: list[bytes]) -> None:
    assert names(dash, ext) == expected


def test_default_is_what_the_word_default_stands_for() -> None:
    found = dict(candidates(b"-", b"A.b-C.D"))
    assert found[b".qmail-a:b-c:d"] is None
    assert found[b".qmail-a:b-default"] == b"C.D"
    assert found[b".qmail-default"] == b"A.b-C.D"


def test_an_exact_name_ending_in_default_gives_its_last_seven_bytes() -> None:
    assert next(candidates(b"-", b"x-DeFault")) == (b".qmail-x-default", b"DeFault")


def test_owner_files_use_the_full_extension() -> None:
    assert owner_names(b"-", b"A.b") == (b".qmail-a:b-owner", b".qmail-a:b-owner-default")
    assert owner_names(b"", b"") == (b".qmail-owner", b".qmail-owner-default")


@pytest.mark.contract("local 5.1", "local 5.2", "local 5.3", "local 5.4", "local 5.5", "local 5.6", "local 5.7")
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", [(b"blank", b"")], id="nothing at all is a blank first line"),
        pytest.param(b" \t\n./M/\n", [(b"blank", b""), (b"maildir", b"./M/")], id="blanks only are a blank line"),
        pytest.param(b"./M/\n\n \n", [(b"maildir", b"./M/")], id="later blank lines mean nothing"),
        pytest.param(b"# hello\n", [], id="comment"),
        pytest.param(b"./a/\t \n/b", [(b"maildir", b"./a/"), (b"mbox", b"/b")], id="files, the last line unended"),
        pytest.param(b"|  run it \n", [(b"program", b"  run it")], id="a program keeps its leading blanks"),
        pytest.param(b"+list\n+other\n", [(b"+list", b"")], id="an unknown plus word is ignored"),
        pytest.param(b"& joe@x\n&\n", [(b"forward", b" joe@x"), (b"forward", b"")], id="ampersand takes all"),
        pytest.param(b"foo/\n  joe@x\n", [(b"forward", b"foo/"), (b"forward", b"  joe@x")], id="other lines"),
        pytest.param(b"#\n\t\t\njoe\n", [(b"forward", b"joe")], id="a line of tabs later on"),
        pytest.param(b"&joe\0x\n", [(b"forward", b"joe\0x")], id="a NUL does not end the line"),
        pytest.param(b"./M\0/\n", [(b"maildir", b"./M\0/")], id="the last byte makes a maildir, NUL or not"),
        pytest.param(b"#\n\0joe\n+list\0\n", [(b"+list", b"")], id="a NUL first is a blank line"),
        pytest.param(b"\0joe\n", [(b"blank", b"")], id="a NUL at the very start as well"),
    ],
)
def test_the_first_byte_decides(data: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    assert list(parse_lines(data)) == expected


@given(st.binary())
def test_no_input_raises(data: bytes) -> None:
    for _kind, argument in parse_lines(data):
        assert b"\n" not in argument


@given(st.binary(), st.binary())
def test_candidates_always_end_with_the_plain_default(dash: bytes, ext: bytes) -> None:
    assert names(dash, ext)[-1] == b".qmail" + dash + b"default"
