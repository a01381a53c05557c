"""newaliases, newinclude and dot-forward beside Debian's (contract aliases, sections 4 to 6)."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.aliases import Completion, ListError, Unparsable, parse_aliases, parse_include, parse_list
from pyqmail.formats.forwarding import parse_commands
from pyqmail.programs import newaliases
from tests.programs.debian_box import DebianBox
from tests.programs.test_fastforward import MESSAGE, RUN, Ours, outcome

COMPLETION = Completion(b"mx.example.org", b"example.org", b"plus.org")
PIECES = [
    b"a", b"joe", b'"q r"', b"x.y", b"@", b".", b",", b"<", b">", b":", b";", b"(c)", b"[1.2]", b" ", b"\t", b"\n ",
    b"\n", b"\\", b'"', b"(", b"owner-", b":include:", b"/f", b"|p", b'"|p q"', b"#", b"<g@h.i>", b"+", b"a: b", b"\0",
]  # fmt: skip
SCRAPS = st.lists(st.sampled_from(PIECES)).map(b"".join)


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    with tempfile.TemporaryDirectory() as name:
        yield Ours(Path(name))


@pytest.fixture(scope="module")
def debian() -> Iterator[DebianBox]:
    with tempfile.TemporaryDirectory() as name:
        yield DebianBox(Path(name))


ALIASES = [
    b"", b"\n\n", b"# c\n", b"root: joe\n", b"Root: Joe\n", b"a: b, c\n", b"a: b c d\n", b"a b c\n", b"a: b@c\n",
    b"a: b@c.d\n", b"a: b@c+\n", b"a: b+\n", b"a: b@\n", b"a: b@.\n", b"a: b@c.\n", b"a: <@r:b@c>\n", b"a: b (c)\n",
    b"a (c): b\n", b"a: b\n c\n", b"a: b\n\tc\n\n d\ne: f\n", b"a: b,\n\n\n\n c\n", b"# c\n a: b\nd: e\n",
    b"a: b\n#c\n d\n", b" a: b\n", b"\na: b\n", b"a@b: c\n", b"A@B.C: d\n", b"@virt.dom: joe\n", b"a: x\na: y\n",
    b'"a b": c\n', b'"a b"@c: d\n', b'a: "b c"\n', b'a: "b c"@d\n', b"Full Name <a@b>: c\n", b"a: Full Name <b@c>\n",
    b"a: <b>\n", b"a: \\joe\n", b"a: \\joe@x\n", b"g: a, b;\n", b"g: a;, b\n", b'a: "|cmd x y"\n', b"a: |cmd\n",
    b'a: "|p", b\n', b'a: b, "|p", c\n', b'a: "|a@b"\n', b"a: |a@b\n", b'a: "|"\n',
    b'"|p": a\n', b'a: "|p" "|q"\n', b"a: /file\n", b'a: "/file"\n', b'a: "/x"@y\n', b"a: b, /file\n",
    b"a: :include:/l\n", b"a: :include:l\n", b"a: :include:./l\n", b"a: :include: /l\n", b"a: : include : /l\n",
    b'a: :include:"/l m"\n', b"a: b, :include:/l, c\n", b"a: :include:\n",
    b":include:/l\n", b"owner-l: me\n", b"owner-l: me\nl: a, b\n", b"l: a\nowner-l: me, you\n",
    b"Owner-l: me\n", b"OWNER-l: me\n", b"owner-L: me\n", b"owner-l@h: me\n", b"owner-: me\n", b'owner-l: "|p"\n',
    b"owner-l@h+: me\n", b"owner-owner-l: me\n", b"a:\n", b"a\n", b"a: ;\n", b": b\n", b":\n", b"a: <>\n",
    b"a: @b\n", b"a: b, @c\n", b"@: b\n", b"a@: b\n", b'"": b\n', b'a: ""\n', b"a: (b\n", b'a: "b\n', b"a: b>\n",
    b"a: b)\n", b"a: [b\n", b"a: b\0c\n", b"a\0: b\n", b"a: .\n", b"a: [1.2]\n", b"a: b@[1.2]\n",
    b"a: b@[]\n", b"\xe9: \xe8\n", b"a: " + b"x" * 785 + b"\n",
    b"a: " + b"x" * 786 + b"\n", b"big: " + b", ".join(b"user%d@host%d" % (n, n) for n in range(500)) + b"\n",
    b"".join(b"user%d: joe%d, sue%d@x.y\n" % (n, n, n) for n in range(500)), b"ok: fine\nbad: (\n", b"a: b.c\n",
    b"a: b . c @ d . e\n",
]  # fmt: skip


@pytest.mark.contract(*(f"aliases 4.{row}" for row in range(1, 15)), "aliases 4")
@pytest.mark.contract("aliases 7.4", "aliases 7.5", "aliases 7.10")
def test_newaliases_makes_debians_database(ours: Ours, debian: DebianBox) -> None:
    for text in ALIASES:
        made = []
        for side, argv in ((ours, ["newaliases", "etc/aliases"]), (debian, ["newaliases"])):
            (side.root / "etc" / "aliases").write_bytes(text)
            database = side.root / "etc" / "aliases.cdb"
            database.write_bytes(b"old")
            database.chmod(0o600)
            done = side.run(argv, {}, b"")
            made.append((done.returncode != 0, database.read_bytes()))
            if side is ours:
                done.stderr = done.stderr[done.stderr.find(b"newaliases: error: ") :]
                assert done.returncode in (0, 111) and database.stat().st_mode & 0o777 == 0o644
                assert (done.returncode == 111) == done.stderr.startswith(b"newaliases: error: etc/aliases: line ")
        assert made[0][0] == made[1][0], text
        assert made[0][0] or made[0] == made[1], text  # where the original makes nothing, what it can be is made here


def aliases(ours: Ours, text: bytes) -> tuple[int, str, dict[str, list[str]]]:
    """The exit code of newaliases, its errors, and the commands of each target."""
    (ours.root / "etc" / "aliases").write_bytes(text)
    done = ours.run(["newaliases", "etc/aliases"], {}, b"")
    printed = ours.run(["printforward"], {}, (ours.root / "etc" / "aliases.cdb").read_bytes()).stdout.decode()
    made: dict[str, list[str]] = {}
    for entry in printed.split(";\n")[:-1]:
        target, *commands = entry.split("\n, ")
        made[target.rstrip(":\n")] = [command.rstrip("\n") for command in commands]
    errors = [line for line in done.stderr.decode().splitlines(True) if not line.startswith("newaliases: warning: ")]
    return done.returncode, "".join(errors), made


def test_newaliases_warns_of_what_is_not_there(ours: Ours) -> None:
    (ours.root / "here").write_bytes(b"ann@x.y\n")
    lists = f"a: :include:{ours.root}/here\nb: :include:/no/list\n"
    text = lists + 'c: "|/no/program x"\nd: "|cat"\ne: /dev/null\n'
    (ours.root / "etc" / "aliases").write_text(text)
    done = ours.run(["newaliases", "etc/aliases"], {}, b"")
    assert (done.returncode, done.stderr.decode().splitlines()) == (
        0,
        [
            f"newaliases: warning: etc/aliases: {words}: its mail waits"
            for words in (
                "b: unable to read /no/list.bin: No such file or directory",
                "c: the program /no/program is not there",
            )
        ],
    )
    (ours.root / "here").unlink()


GOOD = {"a@": ["&ann@x.y"], "z@": ["&zoe@x.y"]}


@pytest.mark.contract("aliases 4.7", "aliases 4.12", "aliases 4")
@pytest.mark.parametrize(
    ("entry", "complaint", "line"),
    [
        (b"\n# c\nbad: (x\n", "unable to parse this line: bad: (x", 4),
        (b"bad: b,\n  c,\n  /var/mail/x\n", "file delivery /var/mail/x not supported", 2),
        (b"bad: ~/mbox\n", "file delivery ~/mbox not supported", 2),
        (b"nobody:\n", "unable to parse this line: nobody:", 2),
        (b"\n\nbad: <>\n", "empty recipient addresses not permitted", 4),
        (b"bad: :include:\n", "empty :include: filenames not permitted", 2),
        (b"bad: :fail: gone away\n", ":fail: is not supported", 2),
        (b"bad: ann@x.y, :blackhole:\r\n", ":blackhole: is not supported", 2),
        (b"bad: :defer: later\n", ":defer: is not supported", 2),
        (b'bad: ":fail: no"\n', ":fail: is not supported", 2),
        (b"bad: error:nouser no such user\n", "error: is not supported", 2),
        (b"bad: |/usr/bin/ticket new\n", "quote the whole command: |/usr/bin/ticket new", 2),
        (b'bad: |/usr/bin/ticket "new one"\n', 'quote the whole command: |/usr/bin/ticket "new one"', 2),
        (b'bad: |"/usr/bin/ticket" new\n', 'quote the whole command: |"/usr/bin/ticket" new', 2),
        (b'bad: |"/usr/bin/ticket\n', 'quote the whole command: |"/usr/bin/ticket', 2),
        (b'bad: |""\n', "an empty command", 2),
        (b"bad, worse: ann\n", "an alias has one name, a line for each: bad, worse", 2),
        (b"bad: lists:;\n", "groups are not supported: bad: lists:;", 2),
        (b"bad: mailto:b@x.y\n", "a colon in a list: bad: mailto:b@x.y", 2),
        (b"bad: b, c: d\n", "a colon in a list: bad: b, c: d", 2),
        (b"bad: b@x.y\n  carl: c@x.y\n", "a colon in a list: bad: b@x.y carl: c@x.y", 2),
        (b"*: ann\n", "* stands for nobody: @example.org is all of a host", 2),
    ],
)
def test_what_cannot_be_honoured_is_named_and_the_others_are_made(
    ours: Ours, entry: bytes, complaint: str, line: int
) -> None:
    code, said, made = aliases(ours, b"a: ann@x.y\n" + entry + b"z: zoe@x.y\n")
    assert (code, made) == (111, GOOD)
    assert said == f"newaliases: error: etc/aliases: line {line}: {complaint}: this alias is not made\n"
    assert not (ours.root / "etc" / "aliases.tmp").exists()


@pytest.mark.contract("aliases 4.1", "aliases 4.4", "aliases 4.8", "aliases 4.9")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"x: /dev/null\n", {"x@": ["/dev/null"]}, id="the null device"),
        pytest.param(b'x: "/dev/null"\n', {"x@": ["/dev/null"]}, id="the null device in quotes"),
        pytest.param(b'x: "|a b"\ny: |"a b"\n', {"x@": ["!a\\ b"], "y@": ["!a\\ b"]}, id="both ways to quote"),
        pytest.param(b'x: | "a b", ann@x.y\n', {"x@": ["!a\\ b", "&ann@x.y"]}, id="a bar, a blank, a quote"),
        pytest.param(b'x: |"sh -c \\"a b\\""\n', {"x@": ['!sh\\ -c\\ "a\\ b"']}, id="quotes within quotes"),
        pytest.param(b"x: |/bin/a, ann@x.y\n", {"x@": ["!/bin/a", "&ann@x.y"]}, id="one word"),
        pytest.param(b'x: |"a # b, c" # d\n', {"x@": ["!a\\ \\#\\ b\\,\\ c"]}, id="# in a command"),
        pytest.param(b"x: :include:/l\n", {"x@": ["/l.bin"]}, id="a list"),
        pytest.param(b'x: ":include:/l"\n', {"x@": ["/l.bin"]}, id="a list in quotes"),
        pytest.param(b'x: ":include: /l"\n', {"x@": ["/l.bin"]}, id="a list in quotes with a blank"),
        pytest.param(b'x: :include:"/l m"\n', {"x@": ["/l\\ m.bin"]}, id="a name in quotes"),
        pytest.param(b"x: :INCLUDE:/l\n", {"x@": ["/l.bin"]}, id="a list in upper case"),
        pytest.param(b"x: ann@x.y\r\n\r\nz: zoe@x.y\r\n", {"x@": ["&ann@x.y"], "z@": ["&zoe@x.y"]}, id="CR LF"),
        pytest.param(b"\xef\xbb\xbfx: ann@x.y\n", {"x@": ["&ann@x.y"]}, id="a byte order mark"),
        pytest.param("x: ann@x.y\r\n".encode("utf-16"), {"x@": ["&ann@x.y"]}, id="UTF-16"),
        pytest.param(b"x: ann@x.y # (at work\n", {"x@": ["&ann@x.y"]}, id="a comment behind"),
        pytest.param(b"x: a@x.y,\n  # b@x.y,\n  c@x.y\n", {"x@": ["&c@x.y", "&a@x.y"]}, id="a comment between"),
        pytest.param(b"x: a@x.y,\n# b@x.y,\n  c@x.y\n", {"x@": ["&c@x.y", "&a@x.y"]}, id="a comment after a comma"),
        pytest.param(b"x: a@x.y, \\\n  c@x.y\n", {"x@": ["&c@x.y", "&a@x.y"]}, id="a backslash at the end"),
        pytest.param(b"x: a#1@x.y\n", {"x@": ["&a\\#1@x.y"]}, id="# in an address"),
    ],
)
def test_what_others_write_is_read(ours: Ours, text: bytes, expected: dict[str, list[str]]) -> None:
    assert aliases(ours, text) == (0, "", expected)


def forwarded(ours: Ours, local: str) -> tuple[int, str]:
    """The exit code of fastforward for ``local``, and what it says that it would do."""
    environ = RUN | {"DEFAULT": local, "HOST": "mx.example.org", "SENDER": "s@s.s"}
    done = ours.run(["fastforward", "-n", "-d", "etc/aliases.cdb"], environ, b"")
    return done.returncode, done.stderr.decode()


def test_mail_to_the_null_device_is_thrown_away_and_that_is_said(ours: Ours) -> None:
    aliases(ours, b"noreply: /dev/null\nboth: noreply@, ann@x.y\nx: noreply@mx.example.org, /dev/null\n")
    thrown = "fastforward: info: thrown away: /dev/null\n"
    assert forwarded(ours, "noreply") == (0, thrown + "no forwarding\n")
    assert forwarded(ours, "both")[0] == 0


@pytest.mark.contract("aliases 7.6")
def test_a_list_in_text_form_serves_without_newinclude_and_after_each_edit(ours: Ours) -> None:
    source, made = ours.root / "staff", ours.root / "staff.bin"
    assert aliases(ours, b"staff: :include:./staff\n")[0] == 0
    assert forwarded(ours, "staff") == (
        111,
        "fastforward: fatal: unable to read ./staff.bin: No such file or directory\n",
    )
    source.write_bytes(b"\xef\xbb\xbfann@x.y # in charge\r\nBob <bob@x.y>, :include:./more\r\n")
    (ours.root / "more").write_bytes(b"carl@x.y\n:include:./more\n:include:./staff.bin\n")
    source.chmod(0o644)
    to = "from <s@s.s>\n" + "".join(f"to <{name}@x.y>\n" for name in ("ann", "carl", "bob"))
    assert forwarded(ours, "staff") == (0, to)
    assert ours.run(["newinclude", "staff"], {}, b"").returncode == 0
    source.write_bytes(b"zoe@x.y\n")
    at = made.stat().st_mtime_ns
    os.utime(source, ns=(at + 1, at + 1))
    assert forwarded(ours, "staff") == (0, "from <s@s.s>\nto <zoe@x.y>\n")
    os.utime(source, ns=(at - 1, at - 1))
    assert forwarded(ours, "staff") == (0, to)
    source.write_bytes(b"zoe@x.y\n(\n")
    os.utime(source, ns=(at + 1, at + 1))
    older = "fastforward: warning: ./staff: line 2: unable to parse this line: (: the older ./staff.bin is used\n"
    assert forwarded(ours, "staff") == (0, older + to)
    made.unlink()
    assert forwarded(ours, "staff")[0] == 111
    source.write_bytes(b"ann@x.y, |cat\n")
    assert forwarded(ours, "staff")[0] == 111  # a list runs no programs
    source.write_bytes(b"zoe@x.y\n")
    source.chmod(0o640)
    assert forwarded(ours, "staff")[0] == 111
    for path in (source, ours.root / "more"):
        path.unlink()


@pytest.mark.contract("aliases 4")
def test_without_an_argument_it_is_the_systems_file(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    assert newaliases.ALIASES == "/etc/aliases"
    path = ours.root / "etc" / "system"
    path.write_bytes(b"a: b\n")
    monkeypatch.setattr(newaliases, "ALIASES", str(path))
    assert newaliases.main([b"newaliases", b"-v"], {b"QMAIL_HOME": bytes(ours.root)}) == 0
    assert (ours.root / "etc" / "system.cdb").stat().st_mode & 0o777 == 0o644


def test_a_fifo_is_no_empty_file(ours: Ours) -> None:
    """Nobody writes to it, so that it would be read as a file without aliases."""
    os.mkfifo(ours.root / "etc" / "fifo")
    (ours.root / "etc" / "fifo.cdb").write_bytes(b"in force")
    done = ours.run(["newaliases", "etc/fifo"], {}, b"")
    assert (done.returncode, done.stderr) == (111, b"newaliases: fatal: unable to convert etc/fifo: Is a FIFO\n")
    assert (ours.root / "etc" / "fifo.cdb").read_bytes() == b"in force"


@pytest.mark.contract("aliases 4.1")
def test_a_last_line_without_newline_counts(ours: Ours) -> None:
    """The original drops it without a word."""
    (ours.root / "etc" / "aliases").write_bytes(b"a: b\nc: d")
    assert ours.run(["newaliases", "etc/aliases"], {}, b"").returncode == 0
    printed = ours.run(["printforward"], {}, (ours.root / "etc" / "aliases.cdb").read_bytes())
    assert b"c@:\n, &d@mx.example.org\n;\n" in printed.stdout


@pytest.mark.contract("aliases 4")
def test_what_newaliases_cannot_read_or_write(ours: Ours) -> None:
    for name in ("none/aliases", "control"):
        done = ours.run(["newaliases", name], {}, b"")
        assert done.returncode == 111 and done.stderr.startswith(b"newaliases: fatal: unable to convert ")
    (ours.root / "etc" / "aliases").write_bytes(b"a: b\n")
    done = ours.run(["newaliases", "etc/aliases"], {"QMAILDEFAULTHOST": "other.host"}, b"")
    assert done.returncode == 0
    printed = ours.run(["printforward"], {}, (ours.root / "etc" / "aliases.cdb").read_bytes())
    assert printed.stdout == b"a@:\n, &b@other.host\n;\n"


INCLUDES = [
    b"", b"a\n", b"a", b"a, b c\nd\n", b" a\n", b"# a\n", b"a (c)\n", b"A B <c@d>\n", b":include:/l\n",
    b":include:l\n", b"a, :include:/l b\n", b"|p\n", b'"|p q"\n', b'"|p@q"\n', b"|p@q\n", b"/f\n", b'"/f"\n', b"(\n",
    b"a\n(\n", b"<>\n", b'""\n', b"a, <>, b\n", b"@h\n", b"x@\n", b"x@y.\n", b"x@[]\n", b"a:b;c\n", b"a\0b\n",
    b'"a\\\nb"\n', b'x@"y.z "\n', b"x" * 785 + b"\n", b"x" * 786 + b"\n", b"\n\n", b":include:\n",
    b":include: \n", b'"a b"@c\n', b"a@b@c\n", b"a+\nb@c+\n", b"\\joe\n",
    b"".join(b"user%d@host%d.example\n" % (n, n) for n in range(2000)),
]  # fmt: skip


@pytest.mark.contract("aliases 5.1", "aliases 7.4")
def test_newinclude_makes_debians_list(ours: Ours, debian: DebianBox) -> None:
    for text in INCLUDES:
        made = []
        for side in (ours, debian):
            (side.root / "l").write_bytes(text)
            (side.root / "l.bin").write_bytes(b"old")
            done = side.run(["newinclude", "l"], {}, b"")
            made.append((done.returncode, (side.root / "l.bin").read_bytes()))
            assert done.returncode or (side.root / "l.bin").stat().st_mode & 0o777 == 0o644
        assert made[0] == made[1], text
        assert made[0][0] in (0, 111)


@pytest.mark.contract("aliases 5.1")
def test_what_newinclude_cannot_do(ours: Ours, debian: DebianBox) -> None:
    done = ours.run(["newinclude"], {}, b"")
    assert (done.returncode, done.stderr) == (100, b"newinclude: usage: newinclude list\n")
    assert ours.run(["newinclude", "none"], {}, b"").returncode == 111
    for side in (ours, debian):
        (side.root / "l").write_bytes(b"a, |p x\n")
        done = side.run(["newinclude", "l"], {}, b"")
        assert done.returncode == 111 and (side is debian or done.stderr.startswith(b"newinclude: fatal: l: line 1: "))
        (side.root / "l").write_bytes(b"a, b@c, d@e+\n")
        variables = {"QMAILDEFAULTHOST": "h+", "QMAILDEFAULTDOMAIN": "d.d", "QMAILPLUSDOMAIN": "p.p"}
        assert side.run(["newinclude", "l"], variables, b"").returncode == 0
        assert (side.root / "l.bin").read_bytes() == b"&d@e.p.p\0&b@c.d.d\0&a@h.p.p\0"


@given(SCRAPS)
def test_any_alias_file_is_read_or_refused(text: bytes) -> None:
    records, errors = parse_aliases(text, COMPLETION)
    for error in errors:
        assert 1 <= error.line <= text.count(b"\n") + text.count(b"\r") + 1
    for key, data in records:
        if key.startswith(b":"):
            parse_commands(data)


@given(SCRAPS)
def test_any_include_file_is_read_or_refused(text: bytes) -> None:
    try:
        parse_commands(parse_include(text, COMPLETION), (b"&", b"/", b"."))
        parse_list(text)
    except (ListError, Unparsable):
        pass


# dot-forward

WHO = RUN | {"USER": "joe", "HOST": "mx.example.org", "NEWSENDER": "new@s.s"}
FORWARDS = [
    b"", b"\n", b"# c\n", b" \n\t\n", b"<>\n", b'""\n', b"a\n", b"a", b"a@b\n", b"a@b.c\n", b"a, b\n", b"a\nb, c\n",
    b"a\n b\n", b"# a\nb\n", b"a\n# b\n c\n", b"joe\n", b"JOE\n", b"\\joe\n", b'"joe"\n', b"<joe>\n",
    b"joe@mx.example.org\n", b"Joe@MX.Example.Org\n", b"joe@mx\n", b"joe@\n", b"joe, a@b\n", b"a@b\n\\joe\n",
    b'"|cat"\n', b"|cat\n", b'"|cat", a@b\n', b'a@b\n"|cat"\nc@d\n', b'"|cat"\njoe\n', b'"|exit 0"\n',
    b'"|a@b"\n', b"|a@b\n", b'"|echo 1" "|echo 2"\n"|echo 3"\n', b"a, a, A\n",
    b'"/f"@x\n', b"./Maildir/\n",
    b"a: b; c\n", b"A B <c@d>\n", b"a@b+\n", b"a+\n", b"x@y.\n", b"@h\n", b"a\0b\n", b'"a b"@c\n',
    b"bob (Bob) @heaven\n", b'"|env -i sh -c \'exit 3\'"\n',
    *(b'"|exit %d"\na@b\n' % n for n in (1, 64, 65, 70, 75, 76, 77, 78, 99, 100, 111, 112)),
]  # fmt: skip


@pytest.mark.contract(*(f"aliases 6.{row}" for row in (1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16)))
@pytest.mark.contract("aliases 6", "aliases 7.8", "aliases 7.9", "aliases 7.4")
@pytest.mark.parametrize("option", ["-N", "-n"])
def test_dot_forward_answers_as_debians_does(ours: Ours, debian: DebianBox, option: str) -> None:
    for text in FORWARDS:
        done = []
        for side in (ours, debian):
            (side.root / "f").write_bytes(text)
            code, output, errors, queued, envelope = outcome(side, ["dot-forward", option, "f"], WHO)
            done.append((code, output, [line for line in errors.splitlines() if line], queued, envelope))
        assert done[0] == done[1], text


@pytest.mark.contract("aliases 6.5", "aliases 6.6", "aliases 6.10", "aliases 6.11")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b'"|echo ran"\n(\n', "line 2: unable to parse this line: ("),
        (b"a, (\n", "line 1: unable to parse this line: a, ("),
        (b"|cat -A\n", "line 1: quote the whole command: |cat -A"),
        (b"a@b\r\n|cat -A\r\n", "line 2: quote the whole command: |cat -A"),
        (b":fail: gone\n", "line 1: :fail: is not supported"),
        (b'"|echo ran", :blackhole:\n', "line 1: :blackhole: is not supported"),
        (b"# Exim filter\nif error_message then finish endif\n", "line 1: filters are not supported"),
        (b"\xef\xbb\xbf#Exim Filter: mine\r\n", "line 1: filters are not supported"),
        (b'#  Sieve filter\nrequire "fileinto";\n', "line 1: filters are not supported"),
        (b"a@b\n:include:./none\n", "line 2: :include:./none is not there"),
        (b":include:./bad\n", "./bad: line 2: unable to parse this line: ("),
        (b":include:./runs\n", "./runs: a list has only addresses"),
    ],
)
def test_dot_forward_refuses_what_it_cannot_honour_before_it_does_anything(
    ours: Ours, text: bytes, complaint: str
) -> None:
    (ours.root / "bad").write_bytes(b"a\n(\n")
    (ours.root / "runs").write_bytes(b'"|echo ran"\n')
    (ours.root / "f").write_bytes(text)
    code, output, errors, queued, _ = outcome(ours, ["dot-forward", "f"], WHO)
    where = "" if complaint.startswith("./") else "f: "
    assert (code, output, errors.decode(), queued) == (111, b"", f"dot-forward: fatal: {where}{complaint}\n", b"-")


FOREIGN = [
    pytest.param(b"\xef\xbb\xbfa@b.c\r\n# mine\r\n", 99, "forward a@b.c", id="byte order mark and CR LF"),
    pytest.param("a@b.c\r\n".encode("utf-16"), 99, "forward a@b.c", id="UTF-16"),
    pytest.param(b"a@b.c # for a while\n  # d@e.f\n", 99, "forward a@b.c", id="comments behind blanks"),
    pytest.param(b'\\joe, |"cat -A"\r\n', 0, "pipe through cat -A|direct delivery", id="a copy to a program"),
    pytest.param(b"/dev/null\n", 99, "dot-forward: info: thrown away: /dev/null", id="the null device"),
    pytest.param(b'"/dev/null"\n', 99, "dot-forward: info: thrown away: /dev/null", id="the null device in quotes"),
    pytest.param(b"~/Maildir/, /m\n", 99, "deliver to /m|deliver to ./Maildir/", id="files"),
    pytest.param(b":include:./staff\n", 0, "forward c@d.e|forward a@b.c|direct delivery", id="a list"),
]


@pytest.mark.contract("aliases 6.4", "aliases 6.5", "aliases 6.10", "aliases 7.8")
@pytest.mark.parametrize(("text", "code", "said"), FOREIGN)
def test_dot_forward_reads_what_others_write(ours: Ours, text: bytes, code: int, said: str) -> None:
    (ours.root / "staff").write_bytes(b"a@b.c, c@d.e # two\n:include:./staff\njoe\n")
    (ours.root / "f").write_bytes(text)
    found, _, errors, _, _ = outcome(ours, ["dot-forward", "-n", "f"], WHO)
    assert (found, errors.decode().splitlines()) == (code, said.split("|"))


@pytest.mark.contract("aliases 6.5", "aliases 6.12", "aliases 6.13")
def test_dot_forward_delivers_to_files(ours: Ours) -> None:
    for name in ("tmp", "new", "cur"):
        (ours.root / "Maildir" / name).mkdir(parents=True)
    (ours.root / "f").write_bytes(b'"|cat >/dev/null"\r\n~/Maildir/\r\n~/mbox, a@b.c\r\n')
    code, _, _, queued, envelope = outcome(ours, ["dot-forward", "f"], WHO)
    assert (code, envelope) == (99, b"Fnew@s.s\0Ta@b.c\0\0") and queued == RUN["DTLINE"].encode() + MESSAGE
    (made,) = (ours.root / "Maildir" / "new").iterdir()
    assert made.read_bytes() == RUN["RPLINE"].encode() + RUN["DTLINE"].encode() + MESSAGE
    assert (ours.root / "mbox").read_bytes().startswith(RUN["UFLINE"].encode() + RUN["RPLINE"].encode())
    (ours.root / "f").write_bytes(b"a@b.c, ~/none/\n")
    code, _, errors, queued, _ = outcome(ours, ["dot-forward", "f"], WHO)
    assert (code, queued) == (111, b"-") and b"Unable to enter maildir ./none/" in errors
    (ours.root / "f").write_bytes(b"/dev/null\n")
    code, _, errors, queued, _ = outcome(ours, ["dot-forward", "f"], WHO)
    assert (code, errors, queued) == (99, b"dot-forward: info: thrown away: /dev/null\n", b"-")


@pytest.mark.contract("aliases 6.1", "aliases 6.2", "aliases 6.7", "aliases 6.8")
@pytest.mark.parametrize(
    "argv",
    [
        pytest.param([], id="no file named"),
        pytest.param(["none", "none2"], id="no such files"),
        pytest.param(["none", "f"], id="the second exists"),
        pytest.param(["empty", "f"], id="the first is empty"),
        pytest.param(["-n", "empty", "blank", "f"], id="described"),
        pytest.param(["-n", "empty", "blank"], id="all empty, described"),
        pytest.param(["-n", "none"], id="none, described"),
        pytest.param(["f", "g"], id="the first one counts"),
        pytest.param(["-N", "-n", "f"], id="the last option counts"),
        pytest.param(["-z", "f"], id="usage"),
        pytest.param(["--", "f"], id="end of options"),
    ],
)
def test_dot_forwards_files(ours: Ours, debian: DebianBox, argv: list[str]) -> None:
    done = []
    for side in (ours, debian):
        for name, text in (("f", b"a@b\n"), ("g", b"c@d\n"), ("empty", b""), ("blank", b"\n# c\n<>\n")):
            (side.root / name).write_bytes(text)
        done.append(outcome(side, ["dot-forward", *argv], WHO))
    assert done[0] == done[1]


@pytest.mark.contract("aliases 6.7", "aliases 6.17")
def test_dot_forward_defers_what_it_cannot_read(ours: Ours) -> None:
    assert outcome(ours, ["dot-forward", "control", "f"], WHO)[0] == 111
    (ours.root / "f").write_bytes(b"a\n")
    code, _, errors, queued, _ = outcome(ours, ["dot-forward", "f"], WHO | {"QMAIL_HOME": str(ours.root / "f")})
    assert (code, queued) == (111, b"-") and errors.startswith(b"dot-forward: fatal: unable to read controls: ")
    environ = WHO | {"QMAILDEFAULTHOST": "other.host"}
    assert outcome(ours, ["dot-forward", "f"], environ)[4] == b"Fnew@s.s\0Ta@mx.example.org\0\0"


@pytest.mark.contract("aliases 6.13")
def test_a_program_may_stop_reading(ours: Ours) -> None:
    (ours.root / "f").write_bytes(b'"|exit 0", "|cat >&2 | wc -c", a@b\n"|head -c 3"\n')
    code, output, _, queued, envelope = outcome(ours, ["dot-forward", "f"], WHO, MESSAGE + b"x" * 300000)
    assert (code, envelope) == (99, b"Fnew@s.s\0Ta@b.example.org\0\0")
    assert output.endswith(b"Fro")
    assert queued == RUN["DTLINE"].encode() + MESSAGE + b"x" * 300000


def test_without_variables_nothing_is_added(ours: Ours, debian: DebianBox) -> None:
    for text in (b"a@b\n", b'"|cat"\n', b"joe\n"):
        done = []
        for side in (ours, debian):
            (side.root / "f").write_bytes(text)
            done.append(outcome(side, ["dot-forward", "f"], {}))
        assert done[0] == done[1]
    assert sorted(os.listdir(ours.root / "tmp")) == []
