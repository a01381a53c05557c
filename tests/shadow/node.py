"""An installed tree whose messages are copied into a PostgreSQL server."""

import os
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.integration.mailhost import ROOT, MailHost, install
from tests.postgresql import PASSWORD, PostgreSQL
from tests.public_directory import public_directory
from tests.waiting import wait_for

SCHEMA = ROOT / "control-examples/cluster/schema.sql"
MODULES = ("psycopg", "psycopg_binary", "psycopg_binary.libs", "typing_extensions.py")


class Database(Protocol):
    """A server, or several that stand for one."""

    url: str

    def run(self, sql: str) -> list[str]:
        """The lines that ``sql`` answers with."""


class Node(MailHost):
    """One machine of several: its own queue, and the database that all of them have."""

    def __init__(self, home: Path, database: Database, name: str, policy: str = "require", lease_s: int = 300) -> None:
        install(home, me=f"{name}\n", locals="example.test\n", shadow=f"{database.url} {policy}\n",
                shadowlease=f"{lease_s}\n")  # fmt: skip
        password = home / "control/shadowpassword"
        password.touch(mode=0o600)
        password.write_text(PASSWORD + "\n")
        (library,) = home.glob("lib/pyqmail-*")
        for module in MODULES:
            os.symlink(f"{sysconfig.get_path('purelib')}/{module}", library / module)
        super().__init__(home)
        self.database = database

    def write(self, name: str, text: str) -> None:
        """A control file."""
        (self.home / "control" / name).write_text(text)

    def queue(self, message: bytes, *recipients: bytes, sender: bytes = b"ann@example.test", facts: bytes = b"") -> int:
        """What qmail-queue answers; ``facts`` are what it finds in $QMAILFACTS."""
        envelope = b"F" + sender + b"\0" + b"".join(b"T" + one + b"\0" for one in recipients) + b"\0"
        reader, writer = os.pipe()
        os.write(writer, envelope)
        os.close(writer)
        with open(reader, "rb") as ends:
            program = self.home / "bin/qmail-queue"
            environ = {**self.environ(), **({"QMAILFACTS": facts.decode()} if facts else {})}
            return subprocess.run([program], input=message, stdout=ends, env=environ).returncode

    def shadowd(self) -> int:
        """The process of qmail-shadowd, once there is one: it may be between two of its lives."""
        found: list[int] = []
        wait_for(lambda: found.append(self._shadowd()) or found[-1], "qmail-shadowd")  # type: ignore[func-returns-value]
        return found[-1]

    def _shadowd(self) -> int:
        for pid in self.pids():
            try:
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"qmail-shadowd"):
                    return pid
            except OSError:
                continue
        return 0

    def adopt(self, *names: str) -> list[str]:
        """What `qmail-shadowd --adopt` says, one line each."""
        done = self.try_to_adopt(*names)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout.splitlines()

    def try_to_adopt(self, *names: str) -> "subprocess.CompletedProcess[str]":
        """`qmail-shadowd --adopt`, which may leave something for the next call."""
        return self._run_shadowd("--adopt", *names)

    def restore(self) -> "subprocess.CompletedProcess[str]":
        """`qmail-shadowd --restore`, of a node that has been stopped."""
        return self._run_shadowd("--restore")

    def _run_shadowd(self, *words: str) -> "subprocess.CompletedProcess[str]":
        program = [*self.prefix, self.home / "bin/qmail-shadowd", *words]
        return subprocess.run(program, capture_output=True, text=True, env=self.environ())

    def die(self) -> None:
        """All its processes at once, as when the machine loses its power."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.started:
            process.wait()
        self.started.clear()
        wait_for(lambda: not self.pids(), "the end of all")

    def lose_lease(self) -> None:
        """In the database its time is over."""
        name = (self.home / "control/me").read_text().strip()
        self.database.run(f"UPDATE shadow_node SET until = now() WHERE name = '{name}'")

    def has_lease(self) -> bool:
        """Whether the database knows it."""
        name = (self.home / "control/me").read_text().strip()
        return self.database.run(f"SELECT 1 FROM shadow_node WHERE name = '{name}' AND until > now()") == ["1"]

    def copies(self) -> list[str]:
        """The IDs of all copies."""
        return self.database.run("SELECT id FROM shadow_message ORDER BY born")

    def start(self) -> None:
        """Everything, until a copy can be made."""
        self.log.touch()
        self.start_delivery()
        wait_for(self.has_lease, f"a lease; the log: {self.log.read_text()[-800:]}")


def load_schema(database: PostgreSQL) -> None:
    """The tables, empty."""
    database.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    database.run(SCHEMA.read_text())


@contextmanager
def node(
    database: PostgreSQL,
    name: str,
    policy: str = "require",
    lease_s: int = 300,
    kind: type[Node] = Node,
    **controls: str,
) -> Iterator[Node]:
    """A node that runs, with more ``controls``; gone afterwards."""
    with public_directory() as base:
        made = kind(base / "qmail", database, name, policy, lease_s)
        for control, text in controls.items():
            made.write(control, text)
        try:
            made.start()
            yield made
        finally:
            made.stop()
