"""forward, condredirect, bouncesaying, except, preline and maildirmake as processes (contract inject, section 4)."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyqmail.mailauth.srs import Srs
from tests.programs.queue_program import write_queue_program

BIN = Path(__file__).parents[2] / "bin"
MESSAGE = b"Subject: x\n\nbody\n"


class Sandbox:
    """A directory with a message and a queue that writes down what it gets."""

    def __init__(self, base: Path) -> None:
        self.base = base
        write_queue_program(base / "queue")
        (base / "message").write_bytes(MESSAGE)
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "QMAIL_HOME": str(base),
            "QMAILQUEUE": str(base / "queue"),
            "OUT": str(base),
            "SENDER": "ann@s",
            "NEWSENDER": "owner@s",
            "UFLINE": "From ann@s now\n",
            "RPLINE": "Return-Path: <ann@s>\n",
            "DTLINE": "Delivered-To: joe@x\n",
        }

    def run(self, name: str, *argv: str, stdin: int | None = None) -> subprocess.CompletedProcess[bytes]:
        """What the program does with the message, or ``stdin``, on its descriptor 0."""
        with (self.base / "message").open("rb") as message:
            return subprocess.run(
                [sys.executable, "-ISXutf8", str(BIN / name), *argv],
                stdin=message if stdin is None else stdin,
                capture_output=True,
                env=self.environ,
                cwd=self.base,
                timeout=60,
                check=False,
            )

    def envelope(self) -> str | None:
        path = self.base / "envelope"
        return path.read_text() if path.exists() else None


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.mark.parametrize(("name", "words"), [("forward", ("bob@x",)), ("condredirect", ("bob@x", "true"))])
def test_a_forward_of_the_deliverys_own_sender_is_from_its_srs_address(
    sandbox: Sandbox, name: str, words: tuple[str, ...]
) -> None:
    sandbox.environ |= {"NEWSENDER": "ann@s", "SRSSENDER": "SRS0=x@srs"}
    assert sandbox.run(name, *words).returncode in (0, 99)
    assert sandbox.envelope() == "FSRS0=x@srs|Tbob@x||"
    sandbox.environ["SRSSENDER"] = ""
    result = sandbox.run(name, *words)
    assert result.returncode == 111 and b"unable to rewrite the sender" in result.stderr


@pytest.mark.parametrize(
    ("local", "mode", "code", "text"),
    [
        pytest.param(b"SRS0=abcd=TT=orig.test=a,b", 0o400, 100, b"it was not made here", id="a forged address"),
        pytest.param(b"", 0o440, 111, b"srs_secrets", id="secrets that others can read"),
        pytest.param(b"", 0o400, 0, b"qp", id="a good one, whose comma makes no list"),
    ],
)
def test_srsfilter(sandbox: Sandbox, local: bytes, mode: int, code: int, text: bytes) -> None:
    (sandbox.base / "control").mkdir()
    (sandbox.base / "control/srs_domain").write_text("srs.test\n")
    (sandbox.base / "control/srs_secrets").write_text("x\n")
    (sandbox.base / "control/srs_secrets").chmod(mode)
    made = Srs(b"srs.test", (b"x",)).forward(b"a,b@orig.test", time.time()).rpartition(b"@")[0]
    sandbox.environ |= {"DEFAULT": (local or made).decode(), "NEWSENDER": "", "SENDER": ""}
    result = sandbox.run("srsfilter")
    assert result.returncode == code and text in result.stderr
    assert sandbox.envelope() == ("F|Ta,b@orig.test||" if code == 0 else None)


@pytest.mark.contract("inject 4.1")
def test_forward_queues_from_newsender(sandbox: Sandbox) -> None:
    result = sandbox.run("forward", "bob@x", "carl")
    assert result.returncode == 0 and result.stderr.startswith(b"forward: qp ")
    assert sandbox.envelope() == "Fowner@s|Tbob@x|Tcarl||"
    assert (sandbox.base / "queued").read_bytes() == b"Delivered-To: joe@x\n" + MESSAGE


@pytest.mark.contract("inject 4.1", "inject 4.2")
@pytest.mark.parametrize(("program", "after", "done"), [("forward", [], 0), ("condredirect", ["true"], 99)])
@pytest.mark.parametrize(
    ("word", "recipients"),
    [
        ("bob@x,carl@y", "Tbob@x|Tcarl@y|"),
        ("Bob Roe <bob@x>", "Tbob@x|"),
        ("bob@x (Bob), ", "Tbob@x|"),
        ('"bob roe"@x', "Tbob roe@x|"),
        ("bob roe@x", "Tbob roe@x|"),
    ],
)
def test_a_word_may_be_a_list(
    sandbox: Sandbox, program: str, after: list[str], done: int, word: str, recipients: str
) -> None:
    assert sandbox.run(program, word, *after).returncode == done
    envelope = sandbox.envelope()
    assert envelope is not None and envelope.partition("|")[2] == recipients + "|"


@pytest.mark.contract("inject 4.1")
@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("DEFAULT", "spam@evil,joe", "spam@evil,joe@x"),
        ("LOCAL", "a b@evil joe", "a b@evil joe@x"),
        ("SENDER", "a,b@s", "a,b@s"),
        ("NEWSENDER", "<a@evil> b@s", "<a@evil> b@s"),
    ],
)
def test_what_a_stranger_wrote_is_no_list(sandbox: Sandbox, name: str, value: str, word: str) -> None:
    sandbox.environ[name] = value
    assert sandbox.run("forward", word).returncode == 0
    envelope = sandbox.envelope()
    assert envelope is not None and envelope.endswith(f"|T{word}||")


@pytest.mark.contract("inject 4.1")
@pytest.mark.parametrize("words", [[], [""], ["<>"], [",", " "]])
def test_forward_to_nobody_is_refused(sandbox: Sandbox, words: list[str]) -> None:
    result = sandbox.run("forward", *words)
    assert (result.returncode, result.stderr) == (100, b"forward: fatal: nobody to send to: no recipients\n")
    assert sandbox.envelope() is None


@pytest.mark.contract("inject 4.1")
@pytest.mark.parametrize(("status", "code"), [("31", 100), ("53", 111)])
def test_forward_says_what_the_queue_said(sandbox: Sandbox, status: str, code: int) -> None:
    sandbox.environ["QUEUE_EXIT"] = status
    assert sandbox.run("forward", "bob@x").returncode == code


@pytest.mark.contract("inject 4.1")
@pytest.mark.parametrize("name", ["NEWSENDER", "DTLINE"])
def test_forward_needs_its_variables(sandbox: Sandbox, name: str) -> None:
    del sandbox.environ[name]
    assert sandbox.run("forward", "bob@x").returncode == 100
    assert sandbox.envelope() is None


@pytest.mark.contract("inject 4.2")
def test_condredirect_redirects_the_whole_message_from_sender(sandbox: Sandbox) -> None:
    result = sandbox.run("condredirect", "bob@x", "grep", "-q", "body")
    assert result.returncode == 99 and result.stderr.startswith(b"condredirect: qp ")
    assert sandbox.envelope() == "Fann@s|Tbob@x||"
    assert (sandbox.base / "queued").read_bytes() == b"Delivered-To: joe@x\n" + MESSAGE


@pytest.mark.contract("inject 4.2", "inject 4.3", "inject 4.4")
@pytest.mark.parametrize(
    ("program", "condredirect", "bouncesaying", "except_"),
    [
        pytest.param("exit 0", 99, 100, 100, id="yes"),
        pytest.param("exit 1", 0, 0, 0, id="no"),
        pytest.param("exit 100", 0, 0, 0, id="a hard no"),
        pytest.param("exit 111", 111, 111, 111, id="later"),
        pytest.param("kill -9 $$", 111, 111, 111, id="a crash"),
    ],
)
def test_conditions(sandbox: Sandbox, program: str, condredirect: int, bouncesaying: int, except_: int) -> None:
    shell = ("sh", "-c", program)
    assert sandbox.run("condredirect", "bob@x", *shell).returncode == condredirect
    assert sandbox.run("bouncesaying", "no", *shell).returncode == bouncesaying
    assert sandbox.run("except", *shell).returncode == except_


@pytest.mark.contract("inject 4.2", "inject 4.3", "inject 4.4")
def test_a_missing_program_is_a_condition_that_is_false(sandbox: Sandbox) -> None:
    assert sandbox.run("condredirect", "bob@x", "/nonexistent").returncode == 0
    assert sandbox.run("bouncesaying", "no", "no-such-program").returncode == 0
    assert sandbox.run("except", "/nonexistent").returncode == 0


@pytest.mark.contract("inject 4.2")
def test_condredirect_needs_a_message_that_can_be_rewound(sandbox: Sandbox) -> None:
    with subprocess.Popen(["cat", sandbox.base / "message"], stdout=subprocess.PIPE) as pipe:
        assert pipe.stdout is not None
        assert sandbox.run("condredirect", "bob@x", "true", stdin=pipe.stdout.fileno()).returncode == 111
    assert sandbox.envelope() is None


@pytest.mark.contract("inject 4.3")
def test_bouncesaying_says_it(sandbox: Sandbox) -> None:
    result = sandbox.run("bouncesaying", "go away")
    assert (result.returncode, result.stderr) == (100, b"go away\n")


@pytest.mark.parametrize(
    ("name", "argv"),
    [("condredirect", ("bob@x",)), ("bouncesaying", ()), ("except", ()), ("preline", ("-f",)), ("maildirmake", ())],
)
def test_wrong_usage_is_permanent(sandbox: Sandbox, name: str, argv: tuple[str, ...]) -> None:
    result = sandbox.run(name, *argv)
    assert (result.returncode, b"usage" in result.stderr) == (100, True)


@pytest.mark.contract("inject 4.5")
@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ((), ("UFLINE", "RPLINE", "DTLINE")),
        (("-f",), ("RPLINE", "DTLINE")),
        (("-rd",), ("UFLINE",)),
        (("-frdD", "--"), ("DTLINE",)),
    ],
)
def test_preline_puts_the_lines_in_front(sandbox: Sandbox, options: tuple[str, ...], lines: tuple[str, ...]) -> None:
    result = sandbox.run("preline", *options, "cat")
    assert result.returncode == 0
    assert result.stdout == "".join(sandbox.environ[name] for name in lines).encode() + MESSAGE


@pytest.mark.contract("inject 4.5")
def test_preline_exits_as_its_program_does(sandbox: Sandbox) -> None:
    assert sandbox.run("preline", "sh", "-c", "cat >/dev/null; exit 7").returncode == 7
    (sandbox.base / "message").write_bytes(b"x" * 1_000_000)
    assert sandbox.run("preline", "sh", "-c", "exit 7").returncode == 7
    assert sandbox.run("preline", "sh", "-c", "kill -9 $$").returncode == 111
    assert sandbox.run("preline", "/nonexistent").returncode == 100
    del sandbox.environ["UFLINE"]
    assert sandbox.run("preline", "-f", "true").returncode == 100


@pytest.mark.contract("inject 4.11")
def test_maildirmake(sandbox: Sandbox) -> None:
    assert sandbox.run("maildirmake", "M").returncode == 0
    for path in ("M", "M/tmp", "M/new", "M/cur"):
        assert (sandbox.base / path).stat().st_mode & 0o7777 == 0o700
    assert sandbox.run("maildirmake", "M").returncode == 111


@pytest.mark.contract("inject 4.5")
def test_preline_names_a_wrong_option(sandbox: Sandbox) -> None:
    assert sandbox.run("preline", "-x", "cat").stderr.startswith(b"preline: illegal option -- x\npreline: usage: ")
    assert sandbox.run("preline", "-", "cat").returncode == 100  # a program called "-", which there is not


@pytest.mark.contract("inject 4.2", "inject 4.3", "inject 4.4")
@pytest.mark.parametrize(
    ("program", "text"), [("exit 111", b"temporary child error"), ("kill -9 $$", b"child crashed")]
)
def test_the_log_is_told_why_a_message_waits(sandbox: Sandbox, program: str, text: bytes) -> None:
    for name, words in (("except", ()), ("bouncesaying", ("no",)), ("condredirect", ("bob@x",))):
        result = sandbox.run(name, *words, "sh", "-c", program)
        assert (result.returncode, result.stderr) == (111, name.encode() + b": fatal: " + text + b"\n")


@pytest.mark.contract("inject 4.2")
def test_condredirect_needs_its_variables_once_it_redirects(sandbox: Sandbox) -> None:
    del sandbox.environ["SENDER"]
    assert sandbox.run("condredirect", "bob@x", "false").returncode == 0
    assert sandbox.run("condredirect", "bob@x", "true").returncode == 100
    assert sandbox.envelope() is None


PROGRAM = "trap '' TERM; cat >/dev/null; touch whole"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["preline", "sh", "-c", PROGRAM], b"preline: fatal: unable to copy input\n"),
        (["predate", "sh", "-c", PROGRAM], b"predate: fatal: unable to copy input\n"),
        (["dot-forward", "forward"], b"dot-forward: fatal: unable to read message\n"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_a_program_never_takes_half_a_message_for_a_whole_one(sandbox: Sandbox, words: list[str], why: bytes) -> None:
    (sandbox.base / "forward").write_text(f'"|{PROGRAM}"\n')
    unreadable = os.open(sandbox.base / "message", os.O_WRONLY)
    try:
        done = sandbox.run(*words, stdin=unreadable)
    finally:
        os.close(unreadable)
    assert (done.returncode, done.stderr) == (111, why)
    assert not (sandbox.base / "whole").exists()
