"""qmail-popup as a process, with checkers of many kinds."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(__file__).resolve().parents[2] / "bin"
DEADLINE_S = 20


class Popup:
    """A qmail-popup on a socket."""

    def __init__(
        self, *words: str, path: str = os.environ["PATH"], stderr: int = subprocess.DEVNULL, **variables: str
    ) -> None:
        ours, theirs = socket.socketpair()
        self.socket = ours
        ours.settimeout(DEADLINE_S)
        self.started = int(time.time())
        self.process = subprocess.Popen(
            [sys.executable, "-ISXutf8", str(BIN / "qmail-popup"), *words],
            env={"PATH": path, "KEPT": "yes", **variables},
            stdin=theirs,
            stdout=theirs,
            stderr=stderr,
        )
        theirs.close()
        self.lines = ours.makefile("rb")

    def say(self, data: bytes) -> bytes:
        """The line that answers ``data``."""
        self.socket.sendall(data)
        return self.lines.readline()

    def end(self) -> tuple[bytes, int]:
        """What is still said, and the exit status."""
        rest = self.lines.read()
        return rest, self.process.wait(DEADLINE_S)


@pytest.fixture
def checker(tmp_path: Path) -> Iterator[Path]:
    """A program that keeps what it was given and exits as the file ``code`` says."""
    script = tmp_path / "checker"
    script.write_text(  # a shell first: Python would ignore SIGPIPE by itself
        f"#!/bin/sh\nread_signals() {{ while read -r name value; do [ $name != SigIgn: ] || echo $value; done; }}\n"
        f"read_signals </proc/self/status >{tmp_path}/ignored\n"
        f'exec {sys.executable} -IS {tmp_path}/checker.py "$@"\n'
    )
    (tmp_path / "checker.py").write_text(
        "import os, sys, signal\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "data = b''\n"
        "while chunk := os.read(3, 4096):\n    data += chunk\n"
        "open('request', 'wb').write(data)\n"
        "fds = sorted(int(fd) for fd in os.listdir('/proc/self/fd'))\n"
        "open('seen', 'w').write(repr((sys.argv[1:], os.environ.get('KEPT'), fds[:4])))\n"
        "os.write(2, b'for the log')\n"
        "code = int(open('code').read())\n"
        "os.kill(os.getpid(), -code) if code < 0 else os._exit(code)\n"
    )
    script.chmod(0o755)
    (tmp_path / "code").write_text("0")
    yield script


@pytest.mark.contract("pop3 1.5", "pop3 1.2")
@pytest.mark.parametrize("words", [(), ("host",)], ids=["nothing", "only a host"])
def test_missing_arguments_get_no_greeting(words: tuple[str, ...]) -> None:
    assert Popup(*words).end() == (b"-ERR usage: popup hostname subprogram\r\n", 1)


@pytest.mark.contract("pop3 1.6", "pop3 1.8", "pop3 1.16", "pop3 1.17", "pop3 1.18", "pop3 4.1", "pop3 1.2")
def test_greeting_and_the_commands_of_strangers() -> None:
    popup = Popup("pop host", "true")
    greeting = re.fullmatch(rb"\+OK <(\d+)\.(\d+)@pop host>\r\n", popup.lines.readline())
    assert greeting is not None
    assert int(greeting[1]) == popup.process.pid
    assert popup.started <= int(greeting[2]) <= time.time()
    assert popup.say(b"noop\r\n") == b"+OK \r\n"
    for line in (b"STAT", b"AUTH", b"STLS", b"", b"USERx"):
        assert popup.say(line + b"\r\n") == b"-ERR authorization first\r\n"
    assert popup.say(b"CAPA\r\n") == b"+OK \r\n"
    assert [popup.lines.readline() for _ in range(4)] == [b"TOP\r\n", b"USER\r\n", b"UIDL\r\n", b".\r\n"]
    assert popup.say(b"QuIt now\n") == b"+OK \r\n"
    assert popup.end() == (b"", 1)


@pytest.mark.contract("pop3 1.9", "pop3 1.10", "pop3 1.12", "pop3 1.13", "pop3 1.15", "pop3 4.8")
def test_without_apop_there_is_no_stamp_that_asks_for_it(tmp_path: Path, checker: Path) -> None:
    (tmp_path / "code").write_text("0")
    popup = Popup("pop.test", str(checker), DISABLEAPOP="1")
    assert popup.lines.readline() == b"+OK ready\r\n"
    assert popup.say(b"APOP ann 0123456789abcdef0123456789abcdef\r\n").startswith(b"-ERR APOP is switched off")
    assert popup.say(b"USER ann\r\n") == b"+OK \r\n"
    popup.socket.sendall(b"PASS secret\r\n")
    assert popup.end() == (b"", 1)
    assert (tmp_path / "request").read_bytes().startswith(b"ann\0secret\0<")


def test_user_pass_and_apop_without_what_they_need() -> None:
    popup = Popup("host", "true")
    popup.lines.readline()
    for line, reply in (
        (b"PASS\r\n", b"-ERR USER first\r\n"),
        (b"PASS x\r\n", b"-ERR USER first\r\n"),
        (b"USER\r\n", b"-ERR syntax error\r\n"),
        (b"USER   \n", b"-ERR syntax error\r\n"),
        (b"APOP joe\r\n", b"-ERR syntax error\r\n"),
        (b"APOP\r\n", b"-ERR syntax error\r\n"),
        (b"USER joe\r\n", b"+OK \r\n"),
        (b"PASS\r\n", b"-ERR syntax error\r\n"),
    ):
        assert popup.say(line) == reply, line
    popup.socket.shutdown(socket.SHUT_WR)
    assert popup.end() == (b"", 1)


@pytest.mark.contract("pop3 1.9", "pop3 1.11", "pop3 1.19", "pop3 1.21", "pop3 1.22", "pop3 4.2", "pop3 4.3")
@pytest.mark.contract("pop3 1.4", "pop3 1.1", "pop3 1.14", "pop3 1.20")
@pytest.mark.parametrize(
    ("talk", "login", "secret"),
    [
        (b"USER ann\r\nUSER joe  r\r\nPASS  a b  \r\n", b"joe  r", b"a b  "),
        (b"APOP joe c4c9334bac560ecc979e58001b3e22fb x\r\n", b"joe", b"c4c9334bac560ecc979e58001b3e22fb x"),
        (b"USER joe\r\nPASS " + b"x" * 5000 + b"\r\n", b"joe", b"x" * 5000),
    ],
    ids=["PASS", "APOP", "a long password"],
)
def test_what_the_checker_is_given(tmp_path: Path, checker: Path, talk: bytes, login: bytes, secret: bytes) -> None:
    reader, writer = os.pipe()
    popup = Popup("host", "checker", "qmail-pop3d", "Mail dir", path=str(tmp_path), stderr=writer)
    os.close(writer)
    stamp = popup.lines.readline()[4:-2]
    popup.socket.sendall(talk + b"NOOP\r\n")  # after PASS nothing is read
    assert popup.end() == (b"+OK \r\n" * talk.count(b"USER"), 1)
    assert (tmp_path / "request").read_bytes() == login + b"\0" + secret + b"\0" + stamp + b"\0"
    assert (tmp_path / "seen").read_text() == repr((["qmail-pop3d", "Mail dir"], "yes", [0, 1, 2, 3]))
    assert int((tmp_path / "ignored").read_text(), 16) & 1 << (signal.SIGPIPE - 1) == 0
    assert os.read(reader, 100) == b"for the log"
    os.close(reader)


@pytest.mark.contract("pop3 1.23", "pop3 1.20", "pop3 4.2")
@pytest.mark.parametrize(
    ("code", "reply", "result"),
    [
        (0, b"", b""),
        (1, b"-ERR authorization failed\r\n", b"failed"),
        (111, b"-ERR authorization failed\r\n", b"deferred"),
        (-signal.SIGKILL, b"-ERR aack, child crashed\r\n", b""),
        (None, b"-ERR authorization failed\r\n", b""),
    ],
    ids=["success", "wrong password", "trouble", "killed", "no such program"],
)
def test_what_becomes_of_the_checker(
    tmp_path: Path, checker: Path, code: int | None, reply: bytes, result: bytes
) -> None:
    (tmp_path / "code").write_text(str(code))
    reader, writer = os.pipe()
    command = "checker" if code is not None else "no-such-checker"
    popup = Popup("host", command, path=str(tmp_path), stderr=writer)
    os.close(writer)
    popup.lines.readline()
    popup.say(b"USER joe\r\n")
    popup.socket.sendall(b"PASS x\r\n")
    assert popup.end() == (reply, 1)
    with os.fdopen(reader, "rb") as log:
        said = log.read().removeprefix(b"for the log")  # by the checker
    assert said == b"qmail-popup: auth: auth-%b type=user user=<joe> ip=unknown\n" % result * bool(result)


@pytest.mark.contract("pop3 1.21")
def test_a_checker_that_does_not_read_is_a_failed_write() -> None:
    popup = Popup("host", "true")
    popup.lines.readline()
    popup.say(b"USER joe\r\n")
    popup.socket.sendall(b"PASS " + b"x" * 90_000 + b"\r\n")  # more than a pipe takes
    assert popup.end() == (b"-ERR unable to write pipe\r\n", 1)


@pytest.mark.contract("pop3 1.19", "pop3 4.11")
def test_with_descriptor_2_closed_there_is_no_pipe() -> None:
    command = f'exec "$0" -ISXutf8 {BIN}/qmail-popup host true 2>&-'
    result = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable], input=b"USER a\r\nPASS b\r\n", stdout=subprocess.PIPE, check=False
    )
    assert result.stdout.split(b"\r\n", 1)[1] == b"+OK \r\n-ERR unable to open pipe\r\n"
    assert result.returncode == 1


@pytest.mark.contract("pop3 4.10")
def test_a_line_without_end_takes_no_memory() -> None:
    popup = Popup("host", "true")
    popup.lines.readline()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        popup.socket.sendall(b"x" * 10_000_000)
    assert popup.process.wait(DEADLINE_S) == 1


@pytest.mark.contract("pop3 1.3")
@pytest.mark.parametrize("module", ["qmail_popup", "qmail_pop3d"])
def test_a_silent_client_is_left_after_the_time_limit(tmp_path: Path, module: str) -> None:
    for folder in ("tmp", "new", "cur"):
        (tmp_path / folder).mkdir()
    program = (
        f"import os, sys; sys.path.insert(0, {str(BIN.parent)!r})\n"
        f"from pyqmail.programs import {module} as program\n"
        "assert program.TIMEOUT_S == 1200; program.TIMEOUT_S = 0.2; os.getuid = lambda: 1\n"
        f"os._exit(program.main([b'x', {os.fsencode(tmp_path)!r}, b'true'], {{}}))\n"
    )
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-c", program], stdin=theirs, stdout=theirs)
    theirs.close()
    assert select.select([ours], [], [], DEADLINE_S)[0]
    assert process.wait(DEADLINE_S) == (1 if module == "qmail_popup" else 0)
    said = ours.makefile("rb").read()
    assert said.startswith(b"+OK ") and said.count(b"\r\n") == 1
