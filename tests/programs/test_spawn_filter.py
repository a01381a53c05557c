"""spawn-filter in the place of qmail-local and of qmail-remote, alone and under both spawners."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.policy.delivery_filters import find_value, parse_delivery, split_variables
from tests.mailauth.test_dkim import outcomes
from tests.mailauth.test_vouching import QUEUED, session
from tests.programs.door import BIN, DEADLINE_S
from tests.programs.spawn_bench import Home, Spawn, install_script
from tests.remote.test_signatures import FROM, home_with_keys

LOCAL = ["qmail-local", "--", "joe", "/home/joe", "joe-x", "-", "x", "here.test", "s@far.test", "./Maildir/"]
REMOTE = ["qmail-remote", "far.test", "s@here.test", "r@far.test"]
MESSAGE = b"Subject: x\n\nhello\n"
SHOWN = """printf "[%s]" "$0" "$@" >{home}/argv; env >{home}/environ; cat >{home}/got; printf 'K%s' done
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("bin", "control"):
        (tmp_path / name).mkdir()
    for name in ("qmail-local", "qmail-remote", "other"):
        install_script(tmp_path / "bin" / name, SHOWN.format(home=tmp_path))
    return tmp_path


def run(home: Path, argv: list[str], message: bytes = MESSAGE, **environ: str) -> tuple[int, bytes]:
    """The exit code and the report."""
    (home / "message").write_bytes(message)
    with (home / "message").open("rb") as file:
        done = subprocess.run(
            argv, executable=BIN / "spawn-filter", stdin=file, capture_output=True, timeout=DEADLINE_S, check=False,
            env={"QMAIL_HOME": str(home), "PATH": "/usr/bin:/bin", **environ},
        )  # fmt: skip
    return done.returncode, done.stdout


def got(home: Path) -> bytes:
    return (home / "got").read_bytes()


@pytest.mark.parametrize("argv", [LOCAL, REMOTE], ids=["local", "remote"])
def test_what_a_filter_writes_is_what_is_delivered(home: Path, argv: list[str]) -> None:
    command = 'echo "X-Filter: $DOMAIN $_EXT $_SENDER $_RECIPIENT ${FILTERARGS-none}"; cat'
    assert run(home, argv, FILTERARGS=command, QMAILLOCAL="x", QMAILREMOTE="x") == (0, b"Kdone")
    here = b"here.test x s@far.test joe-x@here.test" if argv is LOCAL else b"here.test  s@here.test r@far.test"
    assert got(home) == b"X-Filter: " + here + b" none\n" + MESSAGE
    assert (home / "argv").read_text() == f"[bin/{argv[0]}]" + "".join(f"[{word}]" for word in argv[1:])
    names = {line.partition("=")[0] for line in (home / "environ").read_text().splitlines()}
    assert not names & {"FILTERARGS", "SPAMFILTER", "QMAILLOCAL", "QMAILREMOTE"}


def test_another_program_by_variables_and_a_message_without_a_filter(home: Path) -> None:
    assert run(home, LOCAL, QLOCAL="bin/other") == (0, b"Kdone")
    assert (home / "argv").read_text().startswith("[bin/other][--]") and got(home) == MESSAGE
    assert run(home, REMOTE, QREMOTE=str(home / "nowhere"))[1].startswith(b"ZNo such file")


@pytest.mark.parametrize(
    ("command", "code", "report"),
    [
        pytest.param("exit 2", 0, b"blackholed by exit 2", id="thrown away"),
        pytest.param("exit 100", 100, b"Mail Rejected (#5.7.1)", id="rejected"),
        pytest.param("exit 1", 111, b"exit 1: exit code 1 (#4.3.0)", id="any other code"),
        pytest.param("cat; kill -9 $$", 111, b"cat; kill -9 $$: killed by signal 9 (#4.3.0)", id="killed"),
        pytest.param("printf Dvirus >&6; exit 82", 100, b"virus", id="text on 6"),
        pytest.param("printf Zlater >&$ERROR_FD; exit 88", 111, b"later", id="text by ERROR_FD"),
    ],
)
def test_how_a_filter_ends(home: Path, command: str, code: int, report: bytes) -> None:
    assert run(home, LOCAL, FILTERARGS=command) == (code, report + b"\n")
    letter = {0: b"r\0K", 100: b"D", 111: b"Z"}[code]
    assert run(home, REMOTE, FILTERARGS=command) == (0, letter + report + b"\n\0")
    assert not (home / "got").exists()


def test_a_filter_that_writes_nothing_leaves_the_message(home: Path) -> None:
    assert run(home, LOCAL, FILTERARGS="cat >/dev/null") == (0, b"Kdone")
    assert got(home) == MESSAGE


@pytest.mark.parametrize(
    ("code", "rejects", "found"),
    [
        pytest.param("0", "", (0, b"Kdone"), id="marked"),
        pytest.param("0", "1", (100, b"SPAM or junk mail threshold exceeded (#5.7.1)\n"), id="rejected"),
        pytest.param("0", "2", (0, b"blackholed by {}\n"), id="thrown away"),
        pytest.param("1", "1", (0, b"Kdone"), id="ham"),
        pytest.param("2", "1", (0, b"Kdone"), id="unsure"),
        pytest.param("7", "1", (111, b"{}: exit code 7 (#4.3.0)\n"), id="trouble"),
    ],
)
def test_spam_filters(home: Path, code: str, rejects: str, found: tuple[int, bytes]) -> None:
    command = f"sh -c 'echo X-Spam: {code}; cat; exit {code}'"
    (home / "control/spamfilter").write_text(f"*.test:local:{command}\n")
    (home / "control/rejectspam").write_text(f"here.test:{rejects}\n")
    assert run(home, LOCAL, SPAMEXITCODE="0") == (found[0], found[1].replace(b"{}", command.encode()))
    assert not (home / "got").exists() or got(home) == f"X-Spam: {code}\n".encode() + MESSAGE
    assert run(home, LOCAL)[0] == 111  # nobody has said which code is spam


def test_lines_by_domain_and_place() -> None:
    lines = [b"one.test:remote:r", b"one.test:local:l", b"*.two.test:two", b"*:all:of it"]
    local = parse_delivery([os.fsencode(word) for word in LOCAL[:7] + ["One.test", "s@sub.two.test", "x"]], {})
    assert local is not None
    assert (local.place, find_value(lines, local, regular=False)) == (b"local", b"l")
    remote = parse_delivery([b"spawn-filter", b"far.test", b"s@sub.two.test", b"r@far.test"], {})
    assert remote is not None
    assert find_value(lines, remote, regular=False) == b"two"
    assert find_value([b"^(one|sub)[.]:regular"], remote, regular=True) == b"regular"
    bounce = parse_delivery([b"qmail-remote", b"far.test", b"", b"r@far.test"], {b"DEFAULT_DOMAIN": b"one.test"})
    assert bounce is not None and find_value(lines, bounce, regular=False) == b"r"
    assert parse_delivery([b"qmail-local", b"x"], {}) is None


@pytest.mark.parametrize(
    ("value", "command", "variables"),
    [
        (b"bin/f:ERROR_FD=2,A=-z 2", b"bin/f", {b"ERROR_FD": b"2", b"A": b"-z 2"}),
        (b"bin/f x:A=/a:b, B=,", b"bin/f x", {b"A": b"/a:b", b"B": b""}),
        (rb"bin/f:A=one\,two,B=\,", b"bin/f", {b"A": b"one,two", b"B": b","}),
        (b"echo X-Filter: one; cat", b"echo X-Filter: one; cat", {}),
        (b"A=1 bin/f", b"A=1 bin/f", {}),
        (b"bin/f:A=1,no variable", b"bin/f:A=1,no variable", {}),
        (b"", b"", {}),
    ],
)
def test_variables_after_a_command(value: bytes, command: bytes, variables: dict[bytes, bytes]) -> None:
    assert split_variables(value) == (command, variables)


def test_a_line_sets_and_removes_variables_for_its_filter_alone(home: Path) -> None:
    (home / "control/defaultdomain").write_text("ours.test\n")
    (home / "control/filterargs").write_text("ours.test:remote:env; cat:ONE=a b,TWO=,ERROR_FD=2\n")
    assert run(home, [*REMOTE[:2], "", REMOTE[3]], TWO="2", ONE="1") == (0, b"Kdone")
    seen = got(home).decode().splitlines()
    assert {"DOMAIN=ours.test", "ONE=a b", "ERROR_FD=6"} <= set(seen) and "TWO=2" not in seen
    assert {"ONE=1", "TWO=2"} <= set((home / "environ").read_text().splitlines())


@pytest.mark.parametrize(
    "command",
    [
        f"DKIMSIGN=control/domainkeys/%/r DKIMQUEUE=/bin/cat {BIN}/qmail-dkim",
        f"{BIN}/qmail-dkim:ERROR_FD=2,DKIMQUEUE=/bin/cat,DKIMSIGN=control/domainkeys/%/r,DKIMSIGNOPTIONS=-z 2",
    ],
    ids=["words of a shell", "variables, as the family's config-all writes"],
)
def test_qmail_dkim_signs_as_a_filter(tmp_path: Path, command: str) -> None:
    home = home_with_keys(tmp_path)
    (home / "bin").mkdir(exist_ok=True)
    install_script(home / "bin/qmail-remote", SHOWN.format(home=home))
    (home / "control/filterargs").write_text(f"*:remote:{command}\n")
    text = QUEUED + session(b"QMQP") + FROM + b"\nhello\n"
    assert run(home, REMOTE, text) == (0, b"Kdone")
    assert [each.result for each in outcomes(got(home))] == [b"pass"]
    assert got(home).endswith(text)


@pytest.fixture
def tree() -> Iterator[Home]:
    made = Home()
    yield made
    made.close()


@pytest.mark.skipif(os.getuid() != 0, reason="changes uid")
@pytest.mark.parametrize("program", ["qmail-lspawn", "qmail-rspawn"])
def test_the_spawners_run_it_where_their_variables_name_it(tree: Home, program: str) -> None:
    place = "QMAILLOCAL" if program == "qmail-lspawn" else "QMAILREMOTE"
    report = "cat" if program == "qmail-lspawn" else "printf 'r\\0K'; cat; printf '\\0'"
    install_script(tree.path / "bin" / ("qmail-local" if program == "qmail-lspawn" else "qmail-remote"), report)
    tree.assign("=joe:joe:39001:39001:/home/joe:::\n")
    told = {place: str(BIN / "spawn-filter"), "FILTERARGS": "echo X-Filter: $_RECIPIENT; id -u; cat"}
    spawn = Spawn(tree, program, "./Mailbox", environ=told)
    uid = b"39001" if program == "qmail-lspawn" else b"0"
    assert spawn.deliver("joe@here.test") == b"KX-Filter: joe@here.test\n" + uid + b"\nSubject: test\n\nbody\n"
    assert spawn.end() == 0
