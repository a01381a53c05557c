"""The names of .qmail files and the meaning of their lines (contract local, sections 4 and 5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.dotqmail import candidates, names_sender, owner_names, parse_lines


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
        pytest.param(b"& joe@x\n&\n", [(b"forward", b"joe@x"), (b"unreadable", b"&")], id="an address has no blanks"),
        pytest.param(b"foo/\n  joe@x\n", [(b"forward", b"foo/"), (b"forward", b"joe@x")], id="other lines"),
        pytest.param(b"#\n\t\t\njoe\n", [(b"forward", b"joe")], id="a line of tabs later on"),
        pytest.param(b"&joe\0x\n", [(b"forward", b"joe\0x")], id="a NUL does not end the line"),
        pytest.param(b"./M\0/\n", [(b"maildir", b"./M\0/")], id="the last byte makes a maildir, NUL or not"),
        pytest.param(b"#\n\0joe\n+list\0\n", [(b"+list", b"")], id="a NUL first is a blank line"),
        pytest.param(b"\0joe\n", [(b"blank", b"")], id="a NUL at the very start as well"),
    ],
)
def test_the_first_byte_decides(data: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    assert list(parse_lines(data)) == expected


HOME = (b"maildir", b"./Maildir/")
JOE, SUE = (b"forward", b"joe@x.y"), (b"forward", b"sue@x.y")


@pytest.mark.contract("local 5.1", "local 5.6", "local 5.7", "local 9.12")
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"./Maildir/\r\n&joe@x.y\r\n|run it\r\n", [HOME, JOE, (b"program", b"run it")], id="CR LF"),
        pytest.param(b"./Maildir/\r\r\n\r\n&joe@x.y\r", [HOME, JOE], id="more CR, and one at the end"),
        pytest.param(b"./Maildir/\r&joe@x.y\r", [HOME, JOE], id="CR alone"),
        pytest.param(b"\xef\xbb\xbf./Maildir/\n", [HOME], id="a byte order mark"),
        pytest.param(b"\xef\xbb\xbf# all mine\r\n./Maildir/", [HOME], id="a byte order mark and a comment"),
        pytest.param("./Maildir/\r\njoe@x.y\r\n".encode("utf-16"), [HOME, JOE], id="UTF-16"),
        pytest.param(b"\r\n./Maildir/\r\n", [(b"blank", b""), HOME], id="a first line of CR is blank"),
        pytest.param(b"  ./Maildir/ \n\t|run it\n", [HOME, (b"program", b"run it")], id="blanks around"),
        pytest.param(b"/dev/null\n", [(b"discard", b"/dev/null")], id="the null device"),
        pytest.param(b'"/dev/null" # gone\r\n', [(b"discard", b"/dev/null")], id="the null device, quoted"),
        pytest.param(b"~/Maildir/\n~/mbox\n", [HOME, (b"mbox", b"./mbox")], id="the home"),
        pytest.param(b"./Maildir/ # mine\n./mbox #\n", [HOME, (b"mbox", b"./mbox")], id="comments behind files"),
        pytest.param(b"./Lists #1\n./a#b\n", [(b"mbox", b"./Lists #1"), (b"mbox", b"./a#b")], id="# in names"),
        pytest.param(b"|run # it\n", [(b"program", b"run # it")], id="a program's comments are the shell's"),
        pytest.param(b"&joe@x.y # at work\n", [JOE], id="a comment behind an address"),
        pytest.param(b"joe@x.y\t#at work\n", [JOE], id="a comment behind a tab"),
        pytest.param(b"&jo#e@x.y\n", [(b"forward", b"jo#e@x.y")], id="# in an address"),
        pytest.param(b"&joe@x.y, sue@x.y\n", [JOE, SUE], id="a list"),
        pytest.param(b"joe@x.y,sue@x.y,\n", [JOE, SUE], id="a list without blanks, and its last comma"),
        pytest.param(b"&Joe Doe <joe@x.y>\n", [JOE], id="a name"),
        pytest.param(b'&"Doe, Joe" <joe@x.y>, sue@x.y (Sue)\n', [JOE, SUE], id="a name with a comma, and a comment"),
        pytest.param(b"&<joe@x.y>\n", [JOE], id="brackets"),
        pytest.param(b'"|run it"\n', [(b"program", b"run it")], id="a program in quotes"),
        pytest.param(b'"|run \\"it\\""\n', [(b"program", b'run "it"')], id="quotes within quotes"),
        pytest.param(b'"/home/joe/Maildir/"\n', [(b"maildir", b"/home/joe/Maildir/")], id="a file in quotes"),
        pytest.param(b"&<>\n", [(b"unreadable", b"&<>")], id="nobody"),
        pytest.param(b":include:/list\n", [(b"unreadable", b":include:/list")], id="sendmail's lists"),
        pytest.param(b":blackhole:\n", [(b"unreadable", b":blackhole:")], id="Exim's words"),
    ],
)
def test_files_of_other_systems_say_what_they_seem_to_say(data: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    assert list(parse_lines(data)) == expected


@given(st.binary())
def test_no_input_raises(data: bytes) -> None:
    for _kind, argument in parse_lines(data):
        assert b"\n" not in argument


@given(st.binary(), st.binary())
def test_candidates_always_end_with_the_plain_default(dash: bytes, ext: bytes) -> None:
    assert names(dash, ext)[-1] == b".qmail" + dash + b"default"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        pytest.param(b"./Maildir/\n./mbox\n/dev/null\n", False, id="files only"),
        pytest.param(b"# |x\n./Maildir/\n", False, id="a comment"),
        pytest.param(b"", False, id="no bytes"),
        pytest.param(b"./Maildir/\n|true\n", True, id="a program"),
        pytest.param(b"./Maildir/\n&ann@x", True, id="a forward"),
        pytest.param(b"ann", True, id="an address alone"),
        pytest.param(b'"|true"\n', True, id="a program as in sendmail's files"),
    ],
)
def test_whom_the_sender_is_named_to(data: bytes, named: bool) -> None:
    assert names_sender(data) == named
