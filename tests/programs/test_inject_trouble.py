"""qmail-inject and sendmail with bad input, in bad places, and with very much input."""

import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.admin.catalogue import PROGRAMS, PYTHON
from pyqmail.launch import launcher_text

ROOT = Path(__file__).parents[2]
QUEUE = '#!/bin/sh\ncat > "$OUT/queued"\nexec 3<&1\ncat <&3 > "$OUT/envelope"\n'
PEAK = 'grep VmHWM /proc/$PPID/status > "$OUT/peak"\n'
MEBIBYTE = 1 << 20


class Home:
    """A home whose queue program keeps what it gets."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "control").mkdir()
        (base / "control" / "me").write_text("mx.example.test\n")
        (base / "bin").mkdir()
        self.queue(QUEUE)
        for name in ("sendmail", "mailq", "qmail-inject"):
            self.program(name, launcher_text(PROGRAMS[name].module, 111, PYTHON, str(ROOT)))
        self.environ = {"PATH": "/usr/bin:/bin", "QMAIL_HOME": str(base), "OUT": str(base), "USER": "joe"}
        self.environ["QMAILQUEUE"] = str(base / "bin" / "queue")

    def program(self, name: str, text: str) -> None:
        (self.base / "bin" / name).write_text(text)
        (self.base / "bin" / name).chmod(0o755)

    def queue(self, text: str) -> None:
        """Let ``text`` be the queue program."""
        self.program("queue", text)

    def run(self, *argv: str, text: bytes = b"To: a\n\nx\n", **environ: str | None) -> tuple[int, bytes, bytes]:
        """Exit code, output and errors; a variable that is None is taken away."""
        words = [str(self.base / "bin" / argv[0]), *argv[1:]]
        merged = {**self.environ, **environ}
        variables = {name: value for name, value in merged.items() if value is not None}
        done = subprocess.run(words, input=text, capture_output=True, env=variables, cwd="/", timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    def queued(self) -> bytes:
        return (self.base / "queued").read_bytes()


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory() as name:
        yield Home(Path(name))


FATAL = b"qmail-inject: fatal: "


@pytest.mark.contract("inject 1", "inject 1.12", "inject 5.5")
def test_what_cannot_be_read_is_temporary(home: Home) -> None:
    (home.base / "control" / "defaulthost").mkdir()
    assert home.run("qmail-inject") == (111, b"", FATAL + b"read error\n")
    (home.base / "control" / "defaulthost").rmdir()
    assert home.run("qmail-inject", QMAILMFTFILE="/") == (111, b"", FATAL + b"read error\n")
    assert home.run("qmail-inject", QMAILMFTFILE="control/me")[0] == 0  # relative to the caller, where it is missing
    assert home.run("qmail-inject", QMAIL_HOME="/nonexistent") == (111, b"", FATAL + b"internal bug\n")
    assert not (home.base / "control" / "x").exists()


@pytest.mark.contract("inject 1")
def test_a_closed_or_unreadable_input_is_temporary(home: Home) -> None:
    for redirection in ("<&-", "< /proc/self/mem"):
        words = ["sh", "-c", f'"$0" a@b.c {redirection}', str(home.base / "bin" / "qmail-inject")]
        done = subprocess.run(words, capture_output=True, env=home.environ, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (111, FATAL + b"read error\n")
        assert not (home.base / "queued").exists() or not (home.base / "envelope").read_bytes()


@pytest.mark.contract("inject 1", "inject 1.14")
@pytest.mark.parametrize(
    ("queue", "code", "text"),
    [
        ("exit 31", 100, b"mail server permanently rejected message (#5.3.0)\n"),
        ("exit 53", 111, b"(#4.3.0)\n"),
        ("exit 120", 111, b"(#4.3.0)\n"),
        ("kill -9 $$", 111, b"qq crashed (#4.3.0)\n"),
        ("printf 'Dno thanks' >&6; exit 82", 100, b"no thanks"),
        ("printf 'Znot now' >&6; exit 82", 111, b"not now"),
    ],
)
def test_what_the_queue_says(home: Home, queue: str, code: int, text: bytes) -> None:
    home.queue(f"#!/bin/sh\ncat > /dev/null\n{queue}\n")
    status, output, errors = home.run("qmail-inject")
    assert (status, output) == (code, b"")
    assert errors.startswith(FATAL) and errors.endswith(b"\n")
    assert text in errors
    assert home.run("sendmail", "a@b.c")[0] == code  # exit codes are those of qmail-inject


@pytest.mark.parametrize("name", ["qmail-inject", "sendmail"])
def test_a_queue_that_is_away_is_temporary(home: Home, name: str) -> None:
    assert home.run(name, "a@b.c", QMAILQUEUE="/nonexistent/queue")[0] == 111
    status, output, errors = home.run(name, "a@b.c", QMAILQUEUE=None)  # nobody listens, and there is no queue/
    assert (status, output) == (111, b"")
    assert errors.startswith(FATAL)


@pytest.mark.contract("inject 3")
def test_sendmail_without_its_parts_is_temporary(home: Home) -> None:
    assert home.run("sendmail", "a@b.c", QMAIL_HOME="/nonexistent")[0] == 111
    assert home.run("sendmail", "-bs")[0] == 111  # no bin/qmail-smtpd
    assert home.run("mailq")[0] == 111
    (home.base / "bin" / "qmail-inject").unlink()
    code, _, errors = home.run("sendmail", "a@b.c")
    assert (code, errors) == (111, b"sendmail: fatal: unable to run qmail-inject: No such file or directory\n")


@pytest.mark.contract("inject 3", "inject 3.4")
def test_mailq_by_name_and_another_qmail_inject_are_executed(home: Home) -> None:
    for name in ("qmail-qread", "qmail-inject"):
        home.program(name, f'#!/bin/sh\nprintf "%s\\n" {name} "$@"\n')
    (home.base / "other").symlink_to("bin/sendmail")
    assert home.run("mailq") == (0, b"qmail-qread\n", b"")
    assert home.run("mailq", "-v", "x") == (0, b"qmail-qread\n", b"")
    assert home.run("mailq", "-z")[0] == 100  # options are looked at first
    done = home.run("sendmail", "-t", "-f", "a", "-fb", "--", "-x", "y")
    assert done == (0, b"qmail-inject\n-H\n-f\nb\n--\n-x\ny\n", b"")
    (home.base / "bin" / "newaliases").symlink_to("sendmail")
    refused = b"sendmail: fatal: please use fastforward/newaliases instead\n"
    assert home.run("newaliases") == (100, b"", refused)


@pytest.mark.contract("inject 3.2", "inject 3.3")
@pytest.mark.parametrize(
    ("argv", "author", "sender"),
    [
        (["-f", "s@h.i"], b"s@h.i", b"s@h.i"),
        (["-fs"], b"s@q.r", b"s@q.r"),
        (["-F", "A B"], b'"A B" <u@q.r>', b"u@q.r"),
        (["-F", "A B", "-fs@h.i"], b"s@h.i", b"s@h.i"),
        (["-fs@h.i", "-F", "A B"], b"s@h.i", b"s@h.i"),
        (["-f", ""], b"u@q.r", b""),
        (["-f", "x@[]"], b"x@[]", b"x@[]"),
    ],
)
def test_the_author_follows_the_sender(home: Home, argv: list[str], author: bytes, sender: bytes) -> None:
    variables = {"MAILUSER": "u", "QMAILDEFAULTHOST": "q.r"}
    assert home.run("sendmail", *argv, "a@b.c", **variables)[0] == 0
    assert b"From: " + author + b"\n" in home.queued()
    assert (home.base / "envelope").read_bytes() == b"F" + sender + b"\0Ta@b.c\0\0"


@pytest.mark.contract("inject 5.3", "inject 5.4", "inject 5.9")
def test_traps(home: Home) -> None:
    text = b"To: a@b.c,\n\td@e.f\nSubject: x,\n\ty\n\nz\n"
    assert home.run("qmail-inject", "-a", "-f", "", "g@h.i", text=text)[0] == 0
    queued = home.queued()
    assert b"To: a@b.c, d@e.f\nSubject: x,\n\ty\n" in queued
    assert b"Return-Path" not in queued
    assert home.run("qmail-inject", "-n", "-f", "")[1].startswith(b"Return-Path: <>\n")


@pytest.mark.contract("inject 5.11")
@pytest.mark.parametrize(
    ("option", "code", "text"),
    [
        ("-bi", 111, b"unable to run newaliases"),
        ("-bd", 100, b"no daemon"),
        ("-q", 111, b"unable to run qmail-q"),
        ("-q30m", 111, b"unable to run qmail-q"),
        ("-bt", 111, b"unable to run qmail-explain"),
        ("-bx", 100, b"usage"),
    ],
)
def test_what_sendmail_cannot_do_fails(home: Home, option: str, code: int, text: bytes) -> None:
    status, output, errors = home.run("sendmail", option, text=b"a@b.c\n")
    assert (status, output) == (code, b"") and text in errors
    assert not (home.base / "queued").exists()


@pytest.mark.contract("inject 4.13")
@pytest.mark.parametrize("name", ["elq", "pinq", "qail", "maildirwatch", "qsmhook"])
def test_what_is_not_carried_over(name: str) -> None:
    assert name not in PROGRAMS


@pytest.mark.contract("inject 5.7")
def test_forward_uses_newsender_and_condredirect_sender(home: Home) -> None:
    variables = {"SENDER": "ann@a", "NEWSENDER": "owner@a", "DTLINE": "Delivered-To: x\n"}
    for argv, code, sender in (
        (["forward", "new@b"], 0, b"owner@a"),
        (["condredirect", "new@b", "true"], 99, b"ann@a"),
    ):
        home.program(argv[0], launcher_text(PROGRAMS[argv[0]].module, 111, PYTHON, str(ROOT)))
        with tempfile.TemporaryFile() as message:  # condredirect reads it twice
            words = [str(home.base / "bin" / argv[0]), *argv[1:]]
            done = subprocess.run(
                words, env=home.environ | variables, stdin=message, capture_output=True, timeout=60, check=False
            )
        assert done.returncode == code
        assert (home.base / "envelope").read_bytes() == b"F" + sender + b"\0Tnew@b\0\0"


@pytest.mark.contract("inject 5.8")
@pytest.mark.parametrize(
    "argv", [["except", "/none"], ["condredirect", "a@b", "/none"], ["bouncesaying", "no", "/none"]]
)
def test_a_condition_that_cannot_be_run_is_false(home: Home, argv: list[str]) -> None:
    home.program(argv[0], launcher_text(PROGRAMS[argv[0]].module, 111, PYTHON, str(ROOT)))
    with tempfile.TemporaryFile() as message:
        words = [str(home.base / "bin" / argv[0]), *argv[1:]]
        variables = home.environ | {"SENDER": "ann@a", "DTLINE": ""}
        done = subprocess.run(words, env=variables, stdin=message, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    assert not (home.base / "queued").exists()


def cost(home: Home, source: Path) -> tuple[float, int]:
    """Processor seconds and peak bytes of qmail-inject with ``source`` as its input; the queue notes the peak."""
    with source.open("rb") as message:
        process = subprocess.Popen([str(home.base / "bin" / "qmail-inject")], env=home.environ, stdin=message)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    peak = int((home.base / "peak").read_text().split()[1])  # wait4 would tell of the test's own process too
    return usage.ru_utime + usage.ru_stime, peak * 1024


@pytest.mark.parametrize(
    ("unit", "recipients", "whole"),
    [
        pytest.param(b'"A. Name" <user@host.example>,\n ', 1, 2 * MEBIBYTE, id="people"),
        pytest.param(b"user@host.example ", 1, 2 * MEBIBYTE, id="no commas"),
        pytest.param(b"a.", 0, MEBIBYTE // 2, id="dots"),
        pytest.param(b"g:a@b.c;,", 1, MEBIBYTE // 2, id="groups"),
        pytest.param(b"(", 0, 2 * MEBIBYTE, id="parentheses"),
    ],
)
def test_a_to_field_of_two_megabytes_takes_four_times_as_long_as_one_of_half(
    home: Home, unit: bytes, recipients: int, whole: int
) -> None:
    seconds = []
    home.queue(QUEUE + PEAK)
    source = home.base / "message"
    for size in (whole // 4, whole):
        count = size // len(unit)
        source.write_bytes(b"To: " + unit * count + b"z@y.x\n\nbody\n")
        used, memory = cost(home, source)
        seconds.append(used)
        assert memory < 130 * MEBIBYTE
        found = (home.base / "envelope").read_bytes().count(b"\0T")
        assert found == count * recipients + 1
        assert home.queued().endswith(b"\n\nbody\n")
    assert seconds[1] < 8 * seconds[0] + 0.2  # sixteen times if it were quadratic


def test_a_message_of_a_hundred_megabytes_streams(home: Home) -> None:
    source = home.base / "message"
    home.queue('#!/bin/sh\nwc -c > "$OUT/queued"\nexec 3<&1\ncat <&3 > "$OUT/envelope"\n' + PEAK)
    with source.open("wb") as file:
        file.write(b"To: a@b.c\n\n")
        file.truncate(100 * MEBIBYTE)
    _, memory = cost(home, source)
    assert memory < 32 * MEBIBYTE
    added = int(home.queued()) - 100 * MEBIBYTE
    assert 0 < added < 400  # the generated fields and a final newline
    assert (home.base / "envelope").read_bytes() == b"Fjoe@mx.example.test\0Ta@b.c\0\0"


def test_a_header_larger_than_every_buffer_is_whole(home: Home) -> None:
    field = b"X-Long: " + b"x" * (3 * MEBIBYTE) + b"\n\t" + b"y" * 70000 + b"\n"
    assert home.run("qmail-inject", text=field + b"To: a@b.c\n\nend\n")[0] == 0
    assert home.queued().endswith(field + b"To: a@b.c\n\nend\n")


def test_limits_of_the_machine_are_temporary(home: Home) -> None:
    """No memory for a large header: exit 111, nothing queued."""
    source = home.base / "message"
    source.write_bytes(b"To: " + b"a@b.c, " * 400000 + b"\n\n")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (96 * MEBIBYTE, 96 * MEBIBYTE))

    with source.open("rb") as message:
        words = [str(home.base / "bin" / "qmail-inject")]
        done = subprocess.run(
            words, env=home.environ, stdin=message, capture_output=True, timeout=60, check=False, preexec_fn=limit
        )
    assert done.returncode == 111
    assert not (home.base / "envelope").exists() or not (home.base / "envelope").read_bytes()
