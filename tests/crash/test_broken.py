"""Broken in mid-flight: programs, modules and interpreters that are gone or damaged while the spawners run.

Whatever is missing, no mail bounces, and once it is back the next delivery succeeds.
"""

import os
import select
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash import scenario
from tests.crash.mail import text

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
DEADLINE_S = 30.0


class Spawner:
    """qmail-lspawn or qmail-rspawn of a tree with a package of its own."""

    def __init__(self, home: Path, name: str, *args: str) -> None:
        self.home = home
        command = [str(home / "bin" / name), *args]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"QMAIL_HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin"},
            user=scenario.UID,
            group=scenario.UID,
            extra_groups=[],
        )

    def deliver(self, recipient: bytes) -> bytes:
        """The letter of the report."""
        assert self.process.stdin is not None and self.process.stdout is not None
        out = self.process.stdout.fileno()
        os.write(self.process.stdin.fileno(), b"\x05" + b"1/301\0a@b\0" + recipient + b"\0")
        data = b""
        while not data[1:].endswith(b"\0"):
            assert select.select([out], [], [], DEADLINE_S)[0], "no report"
            piece = os.read(out, 4096)
            assert piece, "the spawner has ended"
            data += piece
        return data.removeprefix(b"\x78")[1:2]

    def end(self) -> None:
        """Stop it."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait(DEADLINE_S)


@pytest.fixture
def home() -> Iterator[Path]:
    """A tree whose package may be damaged, with one message in its queue."""
    with TemporaryDirectory(prefix="pyqmail-broken-") as where:
        os.chmod(where, 0o755)
        home = Path(where) / "home"
        home.mkdir()
        scenario.make_home(home)
        (home / "pyqmail").unlink()
        shutil.copytree(scenario.ROOT / "pyqmail", home / "pyqmail", ignore=shutil.ignore_patterns("__pycache__"))
        (home / "control/smtproutes").write_text(":127.0.0.1:1\n")
        subprocess.run([home / "bin/qmail-newu"], env={"QMAIL_HOME": str(home)}, check=True)
        mess = home / "queue/mess/1/301"
        mess.write_bytes(text("mail"))
        os.chown(mess, scenario.UID, scenario.UID)
        yield home


def gone(path: Path) -> None:
    """It is not there."""
    path.rename(f"{path}.gone")


def unreadable(path: Path) -> None:
    """It may not be read."""
    path.chmod(0)


def cut(path: Path) -> None:
    """Only half of it has been written."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def no_interpreter(path: Path) -> None:
    """The interpreter that it names does not exist."""
    path.write_bytes(path.read_bytes().replace(b"#!/usr/bin/python3", b"#!/nonexistent/python3"))


def interpreter_fails(path: Path) -> None:
    """The interpreter ends with 1, as Python does when its own library is incomplete."""
    broken = path.with_name("broken-python")
    broken.write_bytes(b"#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    path.write_bytes(path.read_bytes().replace(b"#!/usr/bin/python3", b"#!" + os.fsencode(broken)))


LAUNCHER = [gone, unreadable, no_interpreter, interpreter_fails]
MODULES = ["pyqmail/programs/{}.py", "pyqmail/launch.py", "pyqmail/control.py", "pyqmail/system/files.py"]
DAMAGE = [
    *[("bin/{}", damage) for damage in LAUNCHER],
    *[(path, damage) for path in MODULES for damage in (gone, unreadable, cut)],
]


@pytest.mark.parametrize(
    ("spawner", "program", "recipient", "good"),
    [
        ("qmail-lspawn", "qmail-local", b"ann@here.example", b"K"),
        ("qmail-rspawn", "qmail-remote", b"ann@far.example", b"Z"),
    ],
)
def test_damage_while_a_spawner_runs_is_never_a_failure(
    home: Path, spawner: str, program: str, recipient: bytes, good: bytes
) -> None:
    running = Spawner(home, spawner, "./Mailbox")
    kept = home.parent / "kept"
    for place in ("bin", "pyqmail"):
        shutil.copytree(home / place, kept / place, symlinks=True)
    try:
        assert running.deliver(recipient) == good
        for path, damage in DAMAGE:
            name = program.replace("-", "_") if path.startswith("pyqmail") else program
            _damage(home, home / path.format(name), damage)
            assert running.deliver(recipient) in (b"Z", good), (path, damage)
            for file in ("pyqmail/build.py", path.format(name)):
                (home / file).unlink(missing_ok=True)
                shutil.copy2(kept / file, home / file)
            assert running.deliver(recipient) == good, (path, damage)
    finally:
        running.end()


def _damage(home: Path, path: Path, damage: Callable[[Path], None]) -> None:
    """Damage ``path`` as an upgrade would: the build file is new too, so that nothing is served from memory."""
    build = home / "pyqmail/build.py"
    build.write_bytes(build.read_bytes() + b"\n")
    damage(path)


@pytest.mark.parametrize("path", MODULES)
@pytest.mark.parametrize("damage", [gone, unreadable, cut])
def test_a_damaged_qmail_queue_tells_its_caller_to_try_again(
    home: Path, path: str, damage: Callable[[Path], None]
) -> None:
    damage(home / path.format("qmail_queue"))
    ended = subprocess.run(
        [home / "bin/qmail-queue"],
        env={"QMAIL_HOME": str(home), "PATH": "/usr/bin:/bin"},
        input=text("mail"),
        capture_output=True,
        user=scenario.UID,
        group=scenario.UID,
        extra_groups=[],
    )
    assert ended.returncode not in (0, *range(11, 41))


EINTR = ["openat", "write", "read", "fsync", "linkat", "splice", "connect", "sendmsg", "recvmsg", "epoll_wait"]


@pytest.mark.parametrize("call", EINTR)
def test_an_interrupted_call_is_made_again(home: Path, call: str) -> None:
    with open(home.parent / "message", "w+b") as message, open(home.parent / "envelope", "w+b") as envelope:
        message.write(b"To: ann@here.example\n" + text("mail"))
        envelope.write(b"Fa@far.example\0Tann@here.example\0\0")
        message.seek(0)
        envelope.seek(0)
        inject = f"inject={call}:error=EINTR:when=1+3"
        strace = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-P",
            str(home / "queue"),
            "-e",
            f"trace={call}",
            "-e",
            inject,
        ]
        if call in ("write", "fsync", "linkat"):
            strace = [word for word in strace if word not in ("-P", str(home / "queue"))]
        ended = subprocess.run(
            [*strace, home / "bin/qmail-queue"],
            stdin=message,
            stdout=envelope,
            env={"QMAIL_HOME": str(home), "PATH": "/usr/bin:/bin"},
            user=scenario.UID,
            group=scenario.UID,
            extra_groups=[],
            timeout=DEADLINE_S,
        )
    queued = os.listdir(home / "queue/todo")
    assert (ended.returncode == 0) == bool(queued)
    assert ended.returncode not in range(11, 41)


SESSION = (
    b"EHLO client.example\r\nMAIL FROM:<a@far.example>\r\nRCPT TO:<ann@here.example>\r\nDATA\r\n",
    text("mail").replace(b"\n", b"\r\n") + b".\r\nQUIT\r\n",
)


def test_an_smtp_session_whose_calls_are_interrupted_goes_on(home: Path) -> None:
    trace = home / "queue/lock/trace"  # where that user may write
    for taken, call in enumerate(("read", "write", "poll", "connect", "wait4", "fsync"), start=1):
        with open(home.parent / "session", "w+b") as session:
            session.write(b"".join(SESSION))
            session.seek(0)
            inject = f"trace={call}", "-e", f"inject={call}:error=EINTR:when=1+3"
            only = ["-P", str(home.parent / "session")] if call == "read" else []  # not what the loader reads
            ended = subprocess.run(
                ["strace", "-f", "-qq", "-o", trace, *only, "-e", *inject, home / "bin/qmail-smtpd"],
                stdin=session,
                capture_output=True,
                env={"QMAIL_HOME": str(home), "PATH": "/usr/bin:/bin", "TCPREMOTEIP": "192.0.2.1"},
                user=scenario.UID,
                group=scenario.UID,
                extra_groups=[],
                timeout=DEADLINE_S,
            )
        assert "EINTR" in trace.read_text(), call
        assert b"\n250 ok " in ended.stdout and ended.returncode == 0, (call, ended)
        assert len(os.listdir(home / "queue/todo")) == taken


WITHOUT_ANSWER = {
    ("qmail-queue",): 74,  # its own word for a connection that broke; callers take it for temporary
    ("qmail-inject", "ann@here.example"): 111,
    ("sendmail", "ann@here.example"): 111,
    ("sendmail", "-t"): 111,
    ("forward", "ann@here.example"): 111,
}


def test_a_queue_service_that_hangs_up_is_temporary(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as service:
        service.bind(f"{home}/run/qmail-queued.sock")
        os.chmod(home / "run/qmail-queued.sock", 0o666)
        service.listen(1)
        service.settimeout(DEADLINE_S)
        for program, code in WITHOUT_ANSWER.items():
            process = _submit_as_stranger(home, program)
            service.accept()[0].close()
            assert process.wait(DEADLINE_S) == code, program
    assert not os.listdir(home / "queue/todo")


def _submit_as_stranger(home: Path, program: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """A program with a message, and for qmail-queue an envelope, run by somebody who may not write the queue."""
    with open(home.parent / "message", "w+b") as message, open(home.parent / "envelope", "w+b") as envelope:
        message.write(b"To: ann@here.example\n" + text("mail"))
        envelope.write(b"Fa@far.example\0Tann@here.example\0\0")
        message.seek(0)
        envelope.seek(0)
        return subprocess.Popen(
            [home / "bin" / program[0], *program[1:]],
            stdin=message,
            stdout=envelope,
            env={"QMAIL_HOME": str(home), "PATH": "/usr/bin:/bin", "NEWSENDER": "a@far.example", "DTLINE": "D: x\n"},
            user=scenario.UID + 1,
            group=scenario.UID + 1,
            extra_groups=[],
        )
