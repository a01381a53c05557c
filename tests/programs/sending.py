"""A real qmail-send in a process of its own, between scripted spawners and a small qmail-clean."""

import errno
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyqmail.protocol.spawn import Command, CommandParser, format_report

BIN = Path(__file__).resolve().parents[2] / "bin"
DEADLINE_S = float(os.environ.get("SENDING_DEADLINE", 60))


def make_queue(home: Path, split: int = 3) -> Path:
    """An empty queue below ``home``."""
    queue = home / "queue"
    for part in ("mess", "info", "local", "remote"):
        for remainder in range(split):
            (queue / part / str(remainder)).mkdir(parents=True)
    for part in ("todo", "intd", "bounce", "lock", "pid"):
        (queue / part).mkdir()
    (queue / "lock/sendmutex").write_bytes(b"")
    os.mkfifo(queue / "lock/trigger")
    return queue


def patched(code: str) -> list[str]:
    """qmail-send with ``code`` run first."""
    program = (
        f"import sys; sys.path[:0] = [{str(BIN.parent)!r}, {str(BIN.parent / '.deps')!r}]\n{code}\n"
        "from pyqmail.launch import run\nrun('pyqmail.programs.qmail_send', crash_exit=111)\n"
    )
    return [sys.executable, "-ISXutf8", "-c", program]


class Sending:
    """The other ends of qmail-send's seven descriptors."""

    def __init__(self, home: Path, environ: dict[str, str] | None = None, *, split: int = 3) -> None:
        self.home = home
        self.split = split
        self.program = [sys.executable, "-ISXutf8", str(BIN / "qmail-send")]
        self.queue = home / "queue"
        self.environ = {"PATH": os.environ["PATH"], "QMAIL_HOME": str(home), **(environ or {})}
        self.log = ""
        self.commands: dict[str, list[Command]] = {"local": [], "remote": []}
        self.requests: list[bytes] = []
        self.clean_answer = b"+"
        self.pid = 0
        self._parsers = {"local": CommandParser(), "remote": CommandParser()}
        self._rest = b""
        self._cleaner = 0

    def start(self, limits: tuple[bytes, bytes] = (b"\x78", b"\x78")) -> "Sending":
        """Spawn qmail-send; the spawners have said their limits."""
        pipes = [os.pipe() for _ in range(7)]
        # descriptor in the child -> pipe and which end is the child's
        ends = {0: 1, 1: 1, 2: 0, 3: 1, 4: 0, 5: 1, 6: 0}
        moved = {fd: fcntl.fcntl(pipes[fd][end], fcntl.F_DUPFD_CLOEXEC, 40) for fd, end in ends.items()}
        actions = [(os.POSIX_SPAWN_DUP2, source, fd) for fd, source in moved.items()]
        self.pid = os.posix_spawnp(
            self.program[0],
            self.program,
            self.environ,
            file_actions=actions,
            setsigdef=[signal.SIGPIPE],
        )
        for fd, source in moved.items():
            os.close(source)
            os.close(pipes[fd][ends[fd]])
        self.ours = {fd: pipes[fd][1 - end] for fd, end in ends.items()}
        os.write(self.ours[2], limits[0])
        os.write(self.ours[4], limits[1])
        return self

    def spy(self, code: int = 0) -> Path:
        """Have a queue program add each bounce to a file, the message, a bar and the envelope, and exit ``code``."""
        script, spied = self.home / "queue-spy", self.home / "spy"
        facts = f'printf %s "$QMAILFACTS" >{self.home}/spied-facts\n'
        script.write_text(f"#!/bin/sh\nexec 3<&1 >>{spied}\ncat\n{facts}printf '|'\ncat <&3\nexit {code}\n")
        script.chmod(0o755)
        self.environ["QMAILQUEUE"] = str(script)
        return spied

    def attach_cleaner(self, program: list[str]) -> None:
        """Let a real qmail-clean answer on descriptors 5 and 6 in our place."""
        requests, answers = self.ours.pop(5), self.ours.pop(6)
        actions = [(os.POSIX_SPAWN_DUP2, requests, 0), (os.POSIX_SPAWN_DUP2, answers, 1)]
        self._cleaner = os.posix_spawnp(program[0], program, self.environ, file_actions=actions)
        os.close(requests)
        os.close(answers)

    def attach_spawner(self, channel: str, program: list[str], environ: dict[str, str]) -> int:
        """Let a real spawner serve ``channel`` in our place; its pid. It says its own limit."""
        commands, reports = (self.ours.pop(fd) for fd in ((1, 2) if channel == "local" else (3, 4)))
        actions = [(os.POSIX_SPAWN_DUP2, commands, 0), (os.POSIX_SPAWN_DUP2, reports, 1)]
        pid = os.posix_spawnp(program[0], program, {**self.environ, **environ}, file_actions=actions)
        os.close(commands)
        os.close(reports)
        return pid

    def put(self, sender: bytes, *recipients: bytes, body: bytes = b"Subject: x\n\nhello\n") -> int:
        """Queue a message as qmail-queue would, without pulling the trigger."""
        path = self.queue / "pid/new"
        path.write_bytes(body)
        number = path.stat().st_ino
        path.rename(self.queue / f"mess/{number % self.split}/{number}")
        todo = b"u1000\0p77\0F" + sender + b"\0" + b"".join(b"T" + recipient + b"\0" for recipient in recipients)
        (self.queue / "intd" / str(number)).write_bytes(todo)
        os.link(self.queue / "intd" / str(number), self.queue / "todo" / str(number))
        return number

    def files(self, number: int) -> set[str]:
        """The parts of the queue in which ``number`` has a file."""
        split = {part: f"{part}/{number % self.split}/{number}" for part in ("mess", "info", "local", "remote")}
        flat = {part: f"{part}/{number}" for part in ("todo", "intd", "bounce")}
        return {part for part, path in (split | flat).items() if (self.queue / path).exists()}

    def pull(self) -> None:
        """Pull the trigger."""
        try:
            fd = os.open(self.queue / "lock/trigger", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # qmail-send opens it anew this very moment, and looks at todo/ after that
        with suppress(BrokenPipeError):  # as above, a moment later
            os.write(fd, b"\0")
        os.close(fd)

    def report(self, channel: str, slot: int, letter: bytes, text: bytes = b"") -> None:
        """Answer a delivery."""
        os.write(self.ours[2 if channel == "local" else 4], format_report(slot, letter, text))

    def until(self, seen: Callable[[], object]) -> None:
        """Serve the pipes until ``seen``; AssertionError at the deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while not seen():
            assert time.monotonic() < deadline, self.log
            self._serve(0.05)

    def until_log(self, text: str) -> None:
        """Serve until the log holds ``text``."""
        self.until(lambda: text in self.log)

    def finish(self) -> int:
        """Send TERM and return the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """The exit code, all of the log read."""
        while self._serve(DEADLINE_S):
            pass
        pid, status = os.waitpid(self.pid, 0)
        self.pid = 0
        for fd in self.ours.values():
            os.close(fd)
        self.ours = {}
        if self._cleaner:
            os.waitpid(self._cleaner, 0)
            self._cleaner = 0
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """End what is still there."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def close(self, fd: int) -> None:
        """Close our end of qmail-send's ``fd``."""
        os.close(self.ours.pop(fd))

    def _serve(self, timeout: float) -> bool:
        """Read once what has come; False at the end of the log."""
        watched = {self.ours[fd]: fd for fd in (0, 1, 3, 5) if fd in self.ours}
        for end in select.select(list(watched), [], [], timeout)[0]:
            data = os.read(end, 65536)
            fd = watched[end]
            if fd == 0:
                if not data:
                    return False
                self.log += data.decode()
            elif not data:
                self.close(fd)
            elif fd == 5:
                self._clean(data)
            else:
                name = "local" if fd == 1 else "remote"
                self.commands[name] += self._parsers[name].feed(data)
        return True

    def _clean(self, data: bytes) -> None:
        *requests, self._rest = (self._rest + data).split(b"\0")
        for request in requests:
            self.requests.append(request)
            kind, _, number = request.partition(b"/")
            if self.clean_answer == b"+":
                name = number.decode()
                target = f"todo/{name}" if kind == b"todo" else f"mess/{int(name) % self.split}/{name}"
                (self.queue / "intd" / name).unlink(missing_ok=True)
                (self.queue / target).unlink(missing_ok=True)
            try:
                os.write(self.ours[6], self.clean_answer)
            except BrokenPipeError:
                return  # it has been killed
