"""fastforward, the makers and the printers of its files, beside Debian's: same answers, same files."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.cdb import write_cdb
from pyqmail.formats.forwarding import BadFormat, SourceError, format_instruction, parse_source
from tests.programs.debian_box import CONTROLS, QUEUE, DebianBox

ROOT = Path(__file__).parents[2]
OURS = (
    *("fastforward", "setforward", "setmaillist", "printforward", "printmaillist"),
    *("newinclude", "newaliases", "dot-forward", "preline"),
)
MESSAGE = b"Subject: s\n\nbody\n"
Done = tuple[int, bytes, bytes, bytes, bytes]


class Ours:
    """Our programs; ``root`` holds the same files as Debian's box."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("bin", "etc", "out", "tmp", "control"):
            (root / folder).mkdir()
        for name in OURS:
            (root / "bin" / name).write_text(f'#!/bin/sh\nexec {ROOT}/bin/{name} "$@"\n')
            (root / "bin" / name).chmod(0o755)
        for name, text in CONTROLS.items():
            (root / "control" / name).write_text(text + "\n")
        self.queue(QUEUE)

    def queue(self, text: str) -> None:
        """Let ``text``, which writes to /out, be the queue program."""
        (self.root / "queue-program").write_text(text.replace("/out/", f"{self.root}/out/"))
        (self.root / "queue-program").chmod(0o755)

    def run(self, argv: list[str], environ: Mapping[str, str], message: bytes) -> "subprocess.CompletedProcess[bytes]":
        """Run a program with ``message`` on its descriptor 0, a file, in the root directory."""
        path = self.root / "out" / "message"
        path.write_bytes(message)
        own = {"PATH": f"{self.root}/bin:/usr/bin:/bin", "QMAIL_HOME": str(self.root)}
        own["QMAILQUEUE"] = str(self.root / "queue-program")
        with path.open("rb") as source:
            return subprocess.run(
                argv, env={**own, **environ}, stdin=source, capture_output=True, cwd=self.root, timeout=60, check=False
            )


Side = Ours | DebianBox


def outcome(side: Side, argv: list[str], environ: Mapping[str, str], message: bytes = MESSAGE) -> Done:
    """Exit code, both outputs, the queued message and the envelope; process numbers are N."""
    for name in ("queued", "envelope"):
        (side.root / "out" / name).unlink(missing_ok=True)
    done = side.run(argv, environ, message)
    left = [side.root / "out" / name for name in ("queued", "envelope")]
    queued, envelope = (path.read_bytes() if path.exists() else b"-" for path in left)
    errors = re.sub(rb"qp \d+", b"qp N", done.stderr)
    return done.returncode, done.stdout, errors, queued, envelope


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    with tempfile.TemporaryDirectory() as name:
        yield Ours(Path(name))


@pytest.fixture(scope="module")
def debian() -> Iterator[DebianBox]:
    with tempfile.TemporaryDirectory() as name:
        yield DebianBox(Path(name))


def put(side: Side, name: str, data: bytes, mode: int = 0o644) -> None:
    """Make a file below the root of ``side``."""
    (side.root / name).write_bytes(data)
    (side.root / name).chmod(mode)


SOURCE = rb"""
# people
joe@a.b: joe@c.d, |cat, e@f, /NONE;
ann@a.b: x@x, Y@y, x@x, ./l.bin;
list@a.b: m@n, ann@a.b, own@a.b;
own@a.b: ?owner@o.o, p@q, r@s;
verp@a.b: ?v-@o-@[], p@q;
only@a.b: ?owner@o.o;
@ow.n: ?host@o.o;
in@ow.n: x@y;
user@ow.n: x@y, in@ow.n;
user@: ?user@o.o;
@b.c: any@w, !cat;
user@: u@v;
loop@a.b: loop2@a.b, z@z;
loop2@a.b: loop@a.b, y@y;
self@a.b: |echo\ here, self@a.b, s@s;
dup@a.b: a@a, A@A, a@a;
wild@a.b: any@b.c, user@q.r;
twice@a.b: first@f;
twice@a.b: second@f;
order@a.b: sub1@a.b, |echo\ parent, sub2@a.b;
sub1@a.b: |echo\ one, 1@1;
sub2@a.b: |echo\ two, 2@2;
case@a.b: OWN@a.b, ANN@A.B, Case@A.b;
empty@a.b: ./empty.bin;
hidden@a.b: ./hidden.bin;
missing@a.b: ./missing.bin;
""" + b"".join(
    b"exit%d@a.b: |echo\\ before, |exit\\ %d, |echo\\ after, n@n;\n" % (code, code)
    for code in (0, 1, 64, 65, 70, 75, 76, 77, 78, 99, 100, 111, 112)
)
RUN = {"SENDER": "s@s.s", "DTLINE": "Delivered-To: joe@a.b\n", "UFLINE": "From s\n", "RPLINE": "Return-Path: <s>\n"}


@pytest.fixture(scope="module")
def databases(ours: Ours, debian: DebianBox) -> None:
    """The same source made into a database by both, byte for byte the same; and lists."""
    for side in (ours, debian):
        put(side, "l.bin", b"&m1@l\0&m2@l\0./more.bin\0")
        put(side, "more.bin", b"&m3@l\0./l.bin\0&joe@A.B\0")
        put(side, "empty.bin", b"")
        put(side, "hidden.bin", b"&x@x\0", 0o640)
        source = SOURCE.replace(b", /NONE", b"")
        assert side.run(["setforward", "t.cdb", "t.tmp"], {}, source).returncode == 0
        put(side, "bad.cdb", b"x" * 100)
    assert (ours.root / "t.cdb").read_bytes() == (debian.root / "t.cdb").read_bytes()


ADDRESSES = re.findall(r"^(\S+): ", SOURCE.decode(), re.M)
LOOKED_UP = sorted({address for address in ADDRESSES if address.startswith(("@", "user"))} ^ set(ADDRESSES))
LOOKED_UP += ["JOE@A.B", "nobody@a.b", "any@b.c", "user@q.r", "user@b.c", "noat", "@a.b", "joe@", "", "a@user@b.c"]


@pytest.mark.contract(
    *(f"aliases 1.{row}" for row in range(1, 7)),
    *(f"aliases 2.{row}" for row in (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13)),
    *(f"aliases 7.{case}" for case in (1, 2, 3, 7)),
    "aliases 2",
)
@pytest.mark.parametrize("options", ["-N", "-n", "-p", "-np"])
@pytest.mark.parametrize("address", LOOKED_UP)
@pytest.mark.usefixtures("databases")
def test_fastforward_answers_as_debians_does(ours: Ours, debian: DebianBox, address: str, options: str) -> None:
    argv, environ = ["fastforward", options, "t.cdb"], RUN | {"RECIPIENT": address}
    mine, theirs = outcome(ours, argv, environ), outcome(debian, argv, environ)
    assert (mine[0], mine[1], mine[3:]) == (theirs[0], theirs[1], theirs[3:])
    trouble = (b"unable to read", b"unable to run")
    if any(text in theirs[2] for text in trouble):  # the words of the system's errors differ
        assert mine[2].rpartition(b": ")[0] == theirs[2].rpartition(b": ")[0]
    else:
        assert mine[2] == theirs[2]


@pytest.mark.contract("aliases 2.1", "aliases 2.2", "aliases 2.6", "aliases 2.10", "aliases 7.9")
@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        pytest.param(["t.cdb"], {}, id="no RECIPIENT"),
        pytest.param(["-d", "t.cdb"], {"HOST": "a.b"}, id="no DEFAULT"),
        pytest.param(["-d", "t.cdb"], {"DEFAULT": "ann"}, id="no HOST"),
        pytest.param(["-d", "t.cdb"], {"DEFAULT": "ann", "EXT": "own", "HOST": "a.b"}, id="DEFAULT before EXT"),
        pytest.param(["-nd", "t.cdb"], {"EXT": "own", "HOST": "A.b"}, id="EXT"),
        pytest.param(["-d", "-D", "t.cdb"], {"RECIPIENT": "ann@a.b"}, id="the last of d and D"),
        pytest.param(["-n", "-N", "t.cdb"], {"RECIPIENT": "ann@a.b"}, id="the last of n and N"),
        pytest.param(["-p", "-P", "t.cdb"], {"RECIPIENT": "none@n"}, id="the last of p and P"),
        pytest.param(["-n", "t.cdb", "more"], {"RECIPIENT": "ann@a.b"}, id="more words"),
        pytest.param(["none.cdb"], {"RECIPIENT": "ann@a.b"}, id="no database"),
        pytest.param(["t.cdb"], {"RECIPIENT": "own@a.b", "SENDER": ""}, id="a bounce to a list"),
        pytest.param(["t.cdb"], {"RECIPIENT": "own@a.b", "SENDER": "#@[]"}, id="a double bounce to a list"),
        pytest.param(["t.cdb"], {"RECIPIENT": "own@a.b", "SENDER": "x@y"}, id="a message to a list"),
        pytest.param(["t.cdb"], {"RECIPIENT": "verp@a.b", "SENDER": "x@y"}, id="an owner for each recipient"),
        pytest.param(
            ["t.cdb"], {"RECIPIENT": "ann@a.b", "NEWSENDER": "n@n"}, id="no SENDER, NEWSENDER is not looked at"
        ),
        pytest.param(["t.cdb"], {"RECIPIENT": "ann@a.b", "SENDER": "x", "DTLINE": "D: x\n"}, id="with DTLINE"),
    ],
)
@pytest.mark.usefixtures("databases")
def test_fastforwards_variables(ours: Ours, debian: DebianBox, argv: list[str], environ: dict[str, str]) -> None:
    mine, theirs = (outcome(side, ["fastforward", *argv], environ) for side in (ours, debian))
    if b"unable to read" in theirs[2]:
        assert mine[0] == theirs[0] and mine[2].startswith(b"fastforward: fatal: unable to read none.cdb: ")
    else:
        assert mine == theirs


@pytest.mark.contract("aliases 2.9")
def test_fastforwards_usage(ours: Ours) -> None:
    for argv in ([], ["-n"], ["-z", "t.cdb"]):
        code, output, errors, *_ = outcome(ours, ["fastforward", *argv], {"RECIPIENT": "a@b"})
        assert (code, output) == (100, b"") and b"fastforward: usage: fastforward [ -nNpP" in errors


@pytest.mark.contract("aliases 2.7", "aliases 6.14")
@pytest.mark.parametrize("queue", [31, 11, 53, 81, 71, 120])
@pytest.mark.usefixtures("databases")
def test_what_the_queue_refuses(ours: Ours, debian: DebianBox, queue: int) -> None:
    for program, environ in (
        (["fastforward", "t.cdb"], RUN | {"RECIPIENT": "ann@a.b"}),
        (["dot-forward", "forward"], RUN | {"USER": "joe", "HOST": "a.b"}),
    ):
        done = []
        for side in (ours, debian):
            put(side, "forward", b"x@y.z\n")
            side.queue(f"#!/bin/sh\nexit {queue}\n")
            done.append(outcome(side, program, environ))
            side.queue("#!/bin/sh\ncat > /out/queued\nexec 3<&1\ncat <&3 > /out/envelope\nexit 0\n")
        assert done[0][0] == done[1][0] == (100 if 11 <= queue <= 40 else 111)
        assert done[0][2].split(b": ")[:2] == done[1][2].split(b": ")[:2]


@pytest.mark.contract("aliases 2.10", "aliases 2.12")
@pytest.mark.usefixtures("databases")
def test_a_damaged_database_or_list_is_temporary(ours: Ours) -> None:
    for name in ("bad.cdb", "control"):
        code, _, errors, *_ = outcome(ours, ["fastforward", name], RUN | {"RECIPIENT": "a@b"})
        assert code == 111 and errors.startswith(b"fastforward: fatal: unable to read ")
    for data in (b"x", b"&a@b", b"|echo no\0", b"&a@b\0\0", b"!x\0"):
        put(ours, "empty.bin", data)
        code, output, _, queued, _ = outcome(ours, ["fastforward", "t.cdb"], RUN | {"RECIPIENT": "empty@a.b"})
        assert (code, output, queued) == (111, b"", b"-")
    put(ours, "empty.bin", b"")


@pytest.mark.usefixtures("databases")
def test_a_fifo_is_no_empty_list(ours: Ours) -> None:
    run = RUN | {"RECIPIENT": "empty@a.b"}
    (ours.root / "empty.bin").unlink()
    os.mkfifo(ours.root / "empty.bin")
    code, _, errors, queued, _ = outcome(ours, ["fastforward", "t.cdb"], run)
    assert (code, errors, queued) == (111, b"fastforward: fatal: unable to read ./empty.bin: Is a FIFO\n", b"-")
    (ours.root / "empty.bin").unlink()
    put(ours, "empty.bin", b"")


@pytest.mark.contract("aliases 2.8")
def test_aliases_that_lead_only_to_each_other_bounce(ours: Ours) -> None:
    source = b"a@h: b@h; b@h: c@h, empty@h; c@h: a@h; empty@h: ./e.bin; near@h: b@h, n@n; told@h: told@h, |true;"
    put(ours, "e.bin", b"")
    assert ours.run(["setforward", "r.cdb", "r.tmp"], {}, source).returncode == 0
    for address, way in (("a@h", b"b@h to c@h to a@h to b@h"), ("c@h", b"a@h to b@h to c@h to a@h")):
        code, _, errors, queued, _ = outcome(ours, ["fastforward", "r.cdb"], RUN | {"RECIPIENT": address})
        text = b"fastforward: fatal: Sorry, these aliases lead to each other and to nobody else: %b. (#5.4.6)\n"
        assert (code, errors, queued) == (100, text % way, b"-")
    for address in ("near@h", "empty@h", "told@h"):  # one has somebody, one is nobody's list, one told a program
        assert outcome(ours, ["fastforward", "r.cdb"], RUN | {"RECIPIENT": address})[0] == 0


@pytest.mark.contract("aliases 2.13")
@pytest.mark.usefixtures("databases")
def test_a_program_reads_from_the_start_and_a_pipe_cannot_be_rewound(ours: Ours) -> None:
    environ = {"PATH": f"{ours.root}/bin:/usr/bin:/bin", "QMAIL_HOME": str(ours.root), "RECIPIENT": "joe@a.b"}
    environ["QMAILQUEUE"] = str(ours.root / "queue-program")
    done = subprocess.run(
        ["fastforward", "t.cdb"], env=environ | RUN, input=MESSAGE, capture_output=True, cwd=ours.root, timeout=60
    )
    assert (done.returncode, done.stdout) == (111, b"")
    assert done.stderr.startswith(b"fastforward: fatal: unable to rewind input: ")
    environ["RECIPIENT"] = "user@q"
    done = subprocess.run(
        ["fastforward", "t.cdb"], env=environ | RUN, input=MESSAGE, capture_output=True, cwd=ours.root, timeout=60
    )
    assert done.returncode == 0  # without a program there is nothing to rewind


@pytest.mark.usefixtures("databases")
def test_a_closed_input_never_forwards_the_database(ours: Ours) -> None:
    words = ["sh", "-c", "fastforward t.cdb <&-"]
    code, _, errors, queued, _ = outcome(ours, words, RUN | {"RECIPIENT": "ann@a.b"})
    assert (code, errors, queued) == (111, b"fastforward: fatal: unable to read message\n", b"-")


@pytest.mark.contract("aliases 1.6", "aliases 2.13")
@pytest.mark.usefixtures("databases")
def test_an_exclamation_mark_adds_the_lines_of_a_mailbox(ours: Ours) -> None:
    code, output, _, queued, envelope = outcome(ours, ["fastforward", "t.cdb"], RUN | {"RECIPIENT": "q@b.c"})
    assert (code, envelope) == (0, b"Fs@s.s\0Tany@w\0\0")
    assert output == (RUN["UFLINE"] + RUN["RPLINE"] + RUN["DTLINE"]).encode() + MESSAGE
    assert queued == RUN["DTLINE"].encode() + MESSAGE


@pytest.mark.contract("aliases 2.13")
@pytest.mark.usefixtures("databases")
def test_a_program_that_dies_is_temporary(ours: Ours) -> None:
    source = b"k@k: |kill\\ -9\\ $$, a@b;\n"
    assert ours.run(["setforward", "k.cdb", "k.tmp"], {}, source).returncode == 0
    code, _, errors, queued, _ = outcome(ours, ["fastforward", "k.cdb"], RUN | {"RECIPIENT": "k@k"})
    assert (code, queued) == (111, b"-") and errors.startswith(b"fastforward: fatal: child crashed in |kill -9 $$")


# setforward and printforward

SOURCES = [
    b"", b"\n# only\n", b"a@b: c@d;", b"a:b;", b"A@B:c;", b"x y : z w ;", rb"x\ y:z\ w;", rb"a:b\;c;", rb"a\:b:c;",
    rb"a\#b:c;", b"a:b#c\n;", b"a:,b,,c;", b"a:&;", b"a:&b;", b"a:-b;", b'a:"b";', b"a:|p;", b"a:!p;", b"a:/l;",
    b"a:./l;", b"a:?o;", b"a:?o,?p;", b"a:?o,b,?p,c;", b"a:;", b"a:?;", b":b;", b"a:b;a:c;", b"a:b;;", b";", b"a;",
    b"a", b"a:b", b"a:b;x", b"a:b:c;", b"a,b:c;", b"a:b;\n\\", b"a:b\0c;", b"#\0\na:b;", b"a:\\\0;", b"a:\xe9;",
    b"\xe9:b;", rb"a:b\nc;", b"a:b\\\nc;", b"a:b\tc\rd\n;", b"a:" + b"x" * 800 + b";", b"a:" + b"x" * 801 + b";",
    b"a:&" + b"x" * 799 + b";", b"a:&" + b"x" * 800 + b";", b"a:?" + b"x" * 900 + b";", b"a:|" + b"x" * 900 + b";",
    b"a:/" + b"x" * 900 + b";", b"x" * 900 + b":b;",
    b"".join(b"user%d@h: a%d@b, |p%d;\n" % (n, n, n) for n in range(400)), SOURCE,
]  # fmt: skip


@pytest.mark.contract(
    "aliases 1.1", "aliases 1.2", *(f"aliases 3.{row}" for row in range(1, 8)), "aliases 3", "aliases 7.6"
)
@pytest.mark.contract("aliases 5.4")
def test_setforward_and_printforward_are_debians_in_both_directions(ours: Ours, debian: DebianBox) -> None:
    for source in SOURCES:
        done = []
        for side in (ours, debian):
            put(side, "s.cdb", b"old")
            result = side.run(["setforward", "s.cdb", "s.tmp"], {}, source)
            made = (side.root / "s.cdb").read_bytes()
            printed = b"" if result.returncode else side.run(["printforward"], {}, made).stdout
            done.append((result.returncode, result.stderr, made, printed))
            if result.returncode == 0 and b"x" * 800 not in source:  # printed with its & it would be too long
                again = side.run(["setforward", "again.cdb", "s.tmp"], {}, printed)
                assert again.returncode == 0
                if b"?o,b,?p" not in source:  # owners are printed before, where they are written
                    assert (side.root / "again.cdb").read_bytes() == made
            elif result.returncode:
                assert made == b"old"
        assert done[0] == done[1], source[:80]


@pytest.mark.contract("aliases 3")
def test_what_setforward_cannot_do(ours: Ours) -> None:
    for argv in ([], ["a"]):
        result = ours.run(["setforward", *argv], {}, b"")
        assert (result.returncode, result.stderr) == (100, b"setforward: usage: setforward data.cdb data.tmp\n")
    result = ours.run(["setforward", "none/a.cdb", "none/a.tmp"], {}, b"a:b;")
    assert result.returncode == 111 and b"none/a.tmp" in result.stderr


@pytest.mark.contract("aliases 5.4")
@pytest.mark.parametrize("key", [b"", b"x", b"!a", b"a:b"])
def test_a_database_of_something_else(ours: Ours, key: bytes) -> None:
    with pytest.raises(BadFormat):
        format_instruction(key, b"&a\0")
    for data in (b"x", b"", b"\0" * 100):
        result = ours.run(["printforward"], {}, data)
        assert (result.returncode, result.stderr) == (100, b"printmaillist: fatal: bad database format\n")


# A CR at the end of a line is dropped when it is read: it comes from another system; what ends in > is read as a list.
TEXT = st.binary(max_size=20).filter(lambda text: b"\0" not in text and b"\r" not in text and text[-1:] != b">")
COMMANDS = st.lists(st.tuples(st.sampled_from([b"&", b"/", b".", b"|", b"!"]), TEXT).map(b"".join), max_size=4)


@given(st.lists(st.tuples(TEXT.map(bytes.lower), COMMANDS), max_size=5))
def test_printed_instructions_are_read_back_as_they_were(instructions: list[tuple[bytes, list[bytes]]]) -> None:
    records = [(b":" + target, b"".join(c + b"\0" for c in commands)) for target, commands in instructions if commands]
    records += [(b"?" + target, b"owner-" + target) for target, _commands in instructions]
    assert parse_source(b"".join(format_instruction(key, data) for key, data in records)) == records


@given(st.binary())
def test_any_source_is_read_or_refused(text: bytes) -> None:
    try:
        parse_source(text)
    except SourceError:
        pass


@pytest.mark.contract("aliases 3.2", "aliases 5.2")
def test_sources_of_windows_editors_are_as_others(ours: Ours) -> None:
    for program, ours_made, source in (
        ("setforward", "w.cdb", b"a@b: c@d,\ne@f;\n"),
        ("setmaillist", "w.bin", b"a@b\nc@d"),
    ):
        made = []
        for text in (source, b"\xef\xbb\xbf" + source.replace(b"\n", b"\r\n")):
            assert ours.run([program, ours_made, "w.tmp"], {}, text).returncode == 0
            made.append((ours.root / ours_made).read_bytes())
        assert made[0] == made[1]


def test_names_brackets_and_lists_are_read_as_addresses(ours: Ours) -> None:
    source = b"a@b: Fred Foo <f@g>, & <h@i>\r, |cat\\ <x\\,y;"
    assert ours.run(["setforward", "n.cdb", "n.tmp"], {}, source).returncode == 0
    printed = ours.run(["printforward"], {}, (ours.root / "n.cdb").read_bytes()).stdout
    assert printed == b"a@b:\n, &f@g\n, &h@i\n, |cat\\ <x\\,y\n;\n"
    source = b' "Foo, Fred" <f@g>\n&h@i, j@k\nl m@n\n./a,b\n'
    assert ours.run(["setmaillist", "n.bin", "n.tmp"], {}, source).returncode == 0
    assert (ours.root / "n.bin").read_bytes() == b"&f@g\0&h@i\0&j@k\0&l m@n\0./a,b\0"


def test_databases_of_windows_sources_that_debians_programs_made(ours: Ours) -> None:
    write_cdb(str(ours.root / "crs.cdb"), [(b":a@b", b"&b@b\r\0&x@y\r\0!echo here\r\0"), (b":b@b", b"./crs.bin\r\0")])
    put(ours, "crs.bin", b"&z@z\r\0")
    code, output, _, _, envelope = outcome(ours, ["fastforward", "crs.cdb"], RUN | {"RECIPIENT": "a@b"})
    assert (code, output, envelope) == (0, b"here\n", b"Fs@s.s\0Tz@z\0Tx@y\0\0")


# Lists

LISTS = [
    b"", b"\n", b" \n\t\n", b"# c\n", b"a@b\n", b"a@b", b"&c@d \t\n", b" x\n", b" # x\n", b"/y z\n", b"./q\n",
    b"|p\n", b"?o\n", b"&\n", b"a\0b\n", b"\xe9@x\n", b"x" * 800 + b"\n", b"x" * 801 + b"\n",
    b"&" + b"x" * 799 + b"\n", b"&" + b"x" * 800, b"/" + b"x" * 900 + b"\n",
    b"".join(b"user%d@host\n" % n for n in range(3000)), b".\n/\n", b"a b\n\tc\n",
]  # fmt: skip


@pytest.mark.contract("aliases 1", "aliases 5.2", "aliases 5.3")
def test_setmaillist_and_printmaillist_are_debians_in_both_directions(ours: Ours, debian: DebianBox) -> None:
    for source in LISTS:
        done = []
        for side in (ours, debian):
            put(side, "s.bin", b"old", 0o600)
            result = side.run(["setmaillist", "s.bin", "s.tmp"], {}, source)
            made = (side.root / "s.bin").read_bytes()
            printed = b"" if result.returncode else side.run(["printmaillist"], {}, made).stdout
            done.append((result.returncode, result.stderr, made, printed))
            if result.returncode == 0:
                assert (side.root / "s.bin").stat().st_mode & 0o777 == 0o644
            else:
                assert made == b"old"
        assert done[0] == done[1], source[:80]


@pytest.mark.contract("aliases 5.3")
@pytest.mark.parametrize("data", [b"x", b"&a", b"a@b\0", b"|p\0", b"\0", b"&a\0\0", b"&a\nb\0"])
def test_a_list_of_something_else(ours: Ours, data: bytes) -> None:
    result = ours.run(["printmaillist"], {}, data)
    assert (result.returncode, result.stdout) == (111, b"")
    assert result.stderr == b"printmaillist: fatal: bad mailing list format\n"


@pytest.mark.contract("aliases 5.2")
def test_what_setmaillist_cannot_do(ours: Ours) -> None:
    result = ours.run(["setmaillist", "a"], {}, b"")
    assert (result.returncode, result.stderr) == (100, b"setmaillist: usage: setmaillist list.bin list.tmp\n")
    assert ours.run(["setmaillist", "none/a", "none/b"], {}, b"").returncode == 111
    assert os.listdir(ours.root / "tmp") == []
