"""Running servers for tests: our tcpserver, or Debian's, on a free port, and what it logs."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests import loopback

BIN = Path(__file__).parents[2] / "bin"
ENVIRON = {"PATH": "/usr/bin:/bin"}
OURS = (sys.executable, "-ISXutf8", str(BIN / "tcpserver"))
DEADLINE_S = 30.0


def theirs(name: str) -> str:
    """The path of a program of Debian's ucspi-tcp or daemontools."""
    found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    assert found is not None, f"{name} is not installed"
    return found


class Running:
    """A tcpserver with -1 on a free port; options before ``--``, the program after it."""

    def __init__(self, command: tuple[str, ...], argv: tuple[str, ...], host: str, environ: dict[str, str]) -> None:
        at = argv.index("--")
        options, program = argv[:at], argv[at + 1 :]
        self.process = subprocess.Popen(
            [*command, "-1", *options, host, "0", *program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ENVIRON, **environ},
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self.host = host
        self._seen = b""
        self.lines: list[str] = []
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        self.port = int(line)
        self.pid = self.process.pid
        if command[0].endswith("strace"):
            (self.pid,) = self.children()

    def line(self) -> str:
        """The next line of the log."""
        assert self.process.stderr is not None
        until = time.monotonic() + DEADLINE_S
        while b"\n" not in self._seen:
            assert select.select([self.process.stderr], [], [], until - time.monotonic())[0], "no log line in time"
            data = os.read(self.process.stderr.fileno(), 65536)
            assert data, f"the log has ended after {self._seen!r}"
            self._seen += data
        line, _, self._seen = self._seen.partition(b"\n")
        self.lines.append(line.decode("utf-8", "surrogateescape"))
        return self.lines[-1]

    def line_with(self, text: str) -> str:
        """The next line of the log that holds ``text``."""
        while text not in (line := self.line()):
            continue
        return line

    def connect(self, source: str | None = None) -> socket.socket:
        """A connection, from the address ``source`` if given."""
        return socket.create_connection((self.host, self.port), DEADLINE_S, source_address=source and (source, 0))

    def talk(self, data: bytes = b"", source: str | None = None) -> bytes:
        """What the client gets that sends ``data`` and then no more."""
        with self.connect(source) as client:
            return loopback.talk(client, data)

    def children(self) -> list[int]:
        """The processes of the server's children."""
        return [int(child) for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def end(self) -> int:
        """Send SIGTERM and return the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """The exit code of a server that ends by itself."""
        code = self.process.wait(DEADLINE_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


def gone(pid: int) -> bool:
    """Whether a process has ended, collected or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # before it is opened, or before it is read
        return True


class Servers:
    """Starts servers and ends them."""

    def __init__(self) -> None:
        self.started: list[Running] = []

    def __call__(self, *argv: str, host: str = "127.0.0.1", command: tuple[str, ...] = OURS, **environ: str) -> Running:
        self.started.append(Running(command, argv, host, environ))
        return self.started[-1]

    def end(self) -> None:
        """End those that still run."""
        for server in self.started:
            if server.process.poll() is None:
                server.end()
