"""A server program on a socket, beside a queue program that keeps what it gets."""

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests import loopback

BIN = Path(__file__).resolve().parents[2] / "bin"
DEADLINE_S = 30
QUEUE = """#!/bin/sh
echo $$ >> {base}/pids
cat > {base}/message
cat <&1 > {base}/envelope
{more}
[ -s {base}/envelope ] || exit 91
"""


class Door:
    """A home and sessions of one program in it."""

    def __init__(self, base: Path, program: str, *options: str) -> None:
        self.base = base
        self.command = [BIN / program, "ignored", *options]
        (base / "control").mkdir()
        self.control(me="mx.test", rcpthosts="here.test")
        self.environ = {"QMAIL_HOME": str(base), "TCPREMOTEIP": "192.0.2.7", "TCPLOCALHOST": "mx.test"}
        self.log = base / "log"
        self.queue()

    def control(self, **files: str) -> None:
        for name, text in files.items():
            (self.base / "control" / name).write_text(text + "\n")

    def queue(self, more: str = "") -> None:
        """A queue program that keeps what it gets, and then does ``more``."""
        path = self.base / "queue-program"
        path.write_text(QUEUE.format(base=self.base, more=more))
        path.chmod(0o755)
        self.environ["QMAILQUEUE"] = str(path)

    def start(self) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
        """A session with the launcher, and our end of its line."""
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE_S)
        with self.log.open("wb") as log, theirs:
            process = subprocess.Popen(self.command, stdin=theirs, stdout=theirs, stderr=log, env=self.environ)
        return ours, process

    def talk(self, wire: bytes) -> tuple[bytes, int]:
        """Send ``wire``, close our side; all that is answered, and the exit code."""
        ours, process = self.start()
        with ours:
            return loopback.talk(ours, wire), process.wait(DEADLINE_S)

    def pids(self) -> list[int]:
        """The queue programs that have been started."""
        return [int(line) for line in (self.base / "pids").read_text().split()]

    def envelope(self) -> bytes:
        return (self.base / "envelope").read_bytes()

    def text(self) -> bytes:
        """The message less its Received line."""
        return (self.base / "message").read_bytes().partition(b" -0000\n")[2]


@contextlib.contextmanager
def door_of(program: str, *options: str) -> Iterator[Door]:
    """A home for the sessions of one test."""
    with tempfile.TemporaryDirectory(prefix=f"pyqmail-{program}-") as base:
        yield Door(Path(base), program, *options)
