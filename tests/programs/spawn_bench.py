"""A qmail home in a temporary directory and a spawner on pipes, for the tests of both spawners."""

import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pyqmail.formats.assign import parse_assign
from pyqmail.formats.cdb import write_cdb
from pyqmail.launch import launcher_text
from pyqmail.protocol.spawn import Report, ReportParser, format_command

REPOSITORY = str(Path(__file__).resolve().parents[2])
PATIENCE_S = 60


def install(path: Path, module: str) -> None:
    """Put one of our own launchers at ``path``."""
    path.write_text(launcher_text(f"pyqmail.programs.{module}", 111, sys.executable, REPOSITORY))
    path.chmod(0o755)


def install_script(path: Path, text: str) -> None:
    """Put somebody else's program at ``path``."""
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


class Home:
    """A qmail home with an empty queue; owned by root, readable by all."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="spawn-"))
        self.path.chmod(0o755)
        for name in ("bin", "control", "users", "queue/mess/0", "queue/lock", "alias"):
            (self.path / name).mkdir(parents=True)
        (self.path / "queue/lock/tcpto").write_bytes(b"x" * 1024)
        self.message("0/1", b"Subject: test\n\nbody\n")

    def message(self, name: str, data: bytes, owner: str = "qmailq") -> None:
        """A message file as qmail-queue leaves it."""
        path = self.path / "queue/mess" / name
        path.write_bytes(data)
        os.chown(path, pwd.getpwnam(owner).pw_uid, -1)

    def assign(self, lines: str) -> None:
        """Make users/cdb from users/assign ``lines``, the final dot excluded."""
        write_cdb(str(self.path / "users/cdb"), parse_assign(lines.encode() + b".\n"))

    def user(self, name: str, uid: int, dot_qmail: str, gid: int = 0) -> str:
        """A home directory below this one; returns its line of users/assign."""
        folder = self.path / name
        folder.mkdir()
        (folder / ".qmail").write_text(dot_qmail)
        for path in (folder, folder / ".qmail"):
            os.chown(path, uid, gid or uid)
        return f"={name}:{name}:{uid}:{gid or uid}:{folder}:::\n"

    def close(self) -> None:
        """Remove it all."""
        shutil.rmtree(self.path)


class Spawn:
    """A running spawner."""

    def __init__(
        self,
        home: Home,
        program: str,
        *args: str,
        environ: dict[str, str] | None = None,
        uid: int | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> None:
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-ISXutf8", f"{REPOSITORY}/bin/{program}", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"QMAIL_HOME": str(home.path), "PATH": f"{home.path}/bin:/usr/bin:/bin", **(environ or {})},
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [uid],
            preexec_fn=lambda: (os.umask(0o077), signal.signal(signal.SIGXFSZ, signal.SIG_DFL), None)[2],
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to = self.process.stdin.fileno()
        self.of = self.process.stdout.fileno()
        self.parser = ReportParser()
        self.pending: list[Report] = []
        self.limit = self.read(1)[0]

    def read(self, size: int = 65536) -> bytes:
        """What the spawner says next; fails after a deadline."""
        assert select.select([self.of], [], [], PATIENCE_S)[0], "the spawner is silent"
        return os.read(self.of, size)

    def send(self, slot: int, recipient: str, *, message: str = "0/1", sender: str = "s@example.org") -> None:
        """Ask for a delivery."""
        os.write(self.to, format_command(slot, message.encode(), sender.encode(), recipient.encode()))

    def report(self) -> Report:
        """The next report."""
        while not self.pending:
            data = self.read()
            assert data, "the spawner ended"
            self.pending += self.parser.feed(data)
        return self.pending.pop(0)

    def deliver(self, recipient: str, **fields: str) -> bytes:
        """Letter and text of one delivery."""
        self.send(0, recipient, **fields)
        report = self.report()
        assert report.slot == 0
        return report.letter + report.text

    def end(self) -> int:
        """Close the commands; the exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        code = self.process.wait(PATIENCE_S)
        self.process.stdout.close()
        return code
