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
    b"a: |cmd x\n", b'a: "|p", b\n', b'a: b, "|p", c\n', b'a: "|a@b"\n', b"a: |a@b\n", b'a: |"x y"\n', b'a: "|"\n',
    b'"|p": a\n', b'a: "|p" "|q"\n', b"a: /file\n", b'a: "/file"\n', b'a: "/x"@y\n', b"a: b, /file\n",
    b"a: :include:/l\n", b"a: :include:l\n", b"a: :include:./l\n", b"a: :include: /l\n", b"a: : include : /l\n",
    b'a: ":include:/l"\n', b'a: :include:"/l m"\n', b"a: b, :include:/l, c\n", b"a: :include:\n",
    b"a: :INCLUDE:/l\n", b":include:/l\n", b"owner-l: me\n", b"owner-l: me\nl: a, b\n", b"l: a\nowner-l: me, you\n",
    b"Owner-l: me\n", b"OWNER-l: me\n", b"owner-L: me\n", b"owner-l@h: me\n", b"owner-: me\n", b'owner-l: "|p"\n',
    b"owner-l@h+: me\n", b"owner-owner-l: me\n", b"a:\n", b"a\n", b"a: ;\n", b": b\n", b":\n", b"a: <>\n",
    b"a: @b\n", b"a: b, @c\n", b"@: b\n", b"a@: b\n", b'"": b\n', b'a: ""\n', b"a: (b\n", b'a: "b\n', b"a: b>\n",
    b"a: b)\n", b"a: [b\n", b"a: b\0c\n", b"a\0: b\n", b"a: b, c: d\n", b"a: .\n", b"a: [1.2]\n", b"a: b@[1.2]\n",
    b"a: b@[]\n", b"\xe9: \xe8\n", b"a: b\r\n", b"a: b\r\nc: d\r\n", b"a: " + b"x" * 785 + b"\n",
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
            assert (done.returncode == 0) == (database.read_bytes() != b"old")
            assert done.returncode or database.stat().st_mode & 0o777 == 0o644
            if side is ours and done.returncode:
                assert done.returncode == 111
                assert done.stderr.startswith(b"newaliases: fatal: ")
        assert made[0] == made[1], text


@pytest.mark.contract("aliases 4.7", "aliases 4.12", "aliases 4")
@pytest.mark.parametrize(
    ("text", "complaint", "line"),
    [
        (b"a: b\n\n# c\nbad: (x\nc: d\n", b"unable to parse this line: bad: (x", 4),
        (b"a: b,\n  c,\n  /dev/null\n", b"file delivery /dev/null not supported", 1),
        (b"x: y\nnobody:\n", b"unable to parse this line: nobody:", 2),
        (b"x: y\n\n\na: <>\n", b"empty recipient addresses not permitted", 4),
        (b"x: :include:\n", b"empty :include: filenames not permitted", 1),
    ],
)
def test_an_error_names_its_line_and_leaves_the_database(ours: Ours, text: bytes, complaint: bytes, line: int) -> None:
    (ours.root / "etc" / "aliases").write_bytes(text)
    (ours.root / "etc" / "aliases.cdb").write_bytes(b"in force")
    done = ours.run(["newaliases", "etc/aliases"], {}, b"")
    assert done.returncode == 111
    assert done.stderr.decode().splitlines() == [
        f"newaliases: fatal: {complaint.decode()}",
        f"newaliases: info: that is line {line} of etc/aliases",
    ]
    assert (ours.root / "etc" / "aliases.cdb").read_bytes() == b"in force"
    assert not (ours.root / "etc" / "aliases.tmp").exists()


@pytest.mark.contract("aliases 4")
def test_without_an_argument_it_is_the_systems_file(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    assert newaliases.ALIASES == "/etc/aliases"
    path = ours.root / "etc" / "system"
    path.write_bytes(b"a: b\n")
    monkeypatch.setattr(newaliases, "ALIASES", str(path))
    assert newaliases.main([b"newaliases", b"-v"], {b"QMAIL_HOME": bytes(ours.root)}) == 0
    assert (ours.root / "etc" / "system.cdb").stat().st_mode & 0o777 == 0o644


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
    b"", b"a\n", b"a", b"a, b c\nd\n", b" a\n", b"# a\n", b"a # b\n", b"a (c)\n", b"A B <c@d>\n", b":include:/l\n",
    b":include:l\n", b"a, :include:/l b\n", b"|p\n", b'"|p q"\n', b'"|p@q"\n', b"|p@q\n", b"/f\n", b'"/f"\n', b"(\n",
    b"a\n(\n", b"<>\n", b'""\n', b"a, <>, b\n", b"@h\n", b"x@\n", b"x@y.\n", b"x@[]\n", b"a:b;c\n", b"a\0b\n",
    b'"a\\\nb"\n', b'x@"y.z "\n', b"x" * 785 + b"\n", b"x" * 786 + b"\n", b"\n\n", b"a\r\nb\r\n", b":include:\n",
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
        assert (done.returncode, done.stderr) == (111, b"newinclude: fatal: program delivery |p not supported\n")
        (side.root / "l").write_bytes(b"a, b@c, d@e+\n")
        variables = {"QMAILDEFAULTHOST": "h+", "QMAILDEFAULTDOMAIN": "d.d", "QMAILPLUSDOMAIN": "p.p"}
        assert side.run(["newinclude", "l"], variables, b"").returncode == 0
        assert (side.root / "l.bin").read_bytes() == b"&d@e.p.p\0&b@c.d.d\0&a@h.p.p\0"


@given(SCRAPS)
def test_any_alias_file_is_read_or_refused(text: bytes) -> None:
    try:
        records = parse_aliases(text, COMPLETION)
    except ListError as error:
        assert 1 <= error.line <= text.count(b"\n") + 1
        return
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
    b'"|cat"\n', b"|cat\n", b"|cat -A\n", b'"|cat", a@b\n', b'a@b\n"|cat"\nc@d\n', b'"|cat"\njoe\n', b'"|exit 0"\n',
    b'"|a@b"\n', b"|a@b\n", b'"|echo 1" "|echo 2"\n"|echo 3"\n', b"a, a, A\n", b"/f\n", b'"/f"\n', b"a\n/f\n",
    b":include:/l\n", b'"/f"@x\n', b'"|echo ran"\n(\n', b"a, (\n", b'"|echo ran"\n/f\n', b"./Maildir/\n", b"~/x\n",
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
