"""Debian's PostgreSQL in a directory of its own, for the tests of what is kept there.

initdb and postgres refuse to be root: they run as ``postgres``, the account of Debian's package, or as whoever runs the
tests. The server listens on 127.0.0.1, or where it is told, and asks for a password there; on a socket in its directory
it asks for none.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_for

USER, PASSWORD, DATABASE = "pyqmail", "seven words", "postgres"
SETTINGS = ("fsync=off", "shared_buffers=8MB", "max_connections=40", "autovacuum=off", "log_min_messages=fatal")


def programs() -> Path | None:
    """The directory of initdb and postgres, of the newest version there is."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class PostgreSQL:
    """One server. It keeps its port and its data from one start to the next."""

    def __init__(self, base: Path, settings: tuple[str, ...] = SETTINGS, address: str = "127.0.0.1") -> None:
        where = programs()
        assert where is not None
        self.base = base
        self._programs = where
        self._settings = settings
        self._account = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None
        self._address = address
        with socket.socket() as sock:
            sock.bind((address, 0))
            self.port = int(sock.getsockname()[1])
        self.url = f"postgresql://{USER}@{address}:{self.port}/{DATABASE}"  # asks for PASSWORD
        self.socket_url = f"postgresql://{USER}@/{DATABASE}?host={base}&port={self.port}"
        (base / "password").write_text(PASSWORD)
        if self._account:
            for path in (base, base / "password"):
                shutil.chown(path, "postgres", "postgres")
        self._make()

    @property
    def pid(self) -> int:
        """The process that all others of a running server are children of."""
        assert self._process is not None
        return self._process.pid

    def _make(self) -> None:
        """Its data: a database with nothing in it."""
        words = ["initdb", "-D", str(self.base / "data"), "-U", USER, "--pwfile", str(self.base / "password")]
        words += ["--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._call(*words)
        with (self.base / "data/pg_hba.conf").open("a") as file:
            file.write(f"host all {USER} samenet scram-sha-256\n")

    def _call(self, program: str, *words: str) -> None:
        """One of PostgreSQL's programs, as its account."""
        command = [str(self._programs / program), *words]
        subprocess.run(command, check=True, capture_output=True, **self._account)  # type: ignore[call-overload]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = [str(self._programs / "postgres"), "-D", str(self.base / "data"), "-p", str(self.port)]
        words += ["-c", f"listen_addresses={self._address}", "-k", str(self.base)]
        for setting in self._settings:
            words += ["-c", setting]
        with open(self.base / "log", "ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, **self._account)  # type: ignore[call-overload]
        wait_for(self._answers, "postgres")

    def _answers(self) -> bool:
        words = [str(self._programs / "pg_isready"), "-q", "-h", str(self.base), "-p", str(self.port)]
        return subprocess.run(words).returncode == 0

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it at once, as a crash would: what was committed is there after the next start."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def run(self, sql: str) -> list[str]:
        """The lines that ``sql`` answers with: fields with ``|`` between them."""
        words = [str(self._programs / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.socket_url, "-c", sql]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()


class Standby(PostgreSQL):
    """A second one that has all that ``primary`` has, and whose word the primary waits for once it runs."""

    def __init__(self, base: Path, primary: PostgreSQL, address: str, settings: tuple[str, ...] = SETTINGS) -> None:
        self._primary = primary
        super().__init__(base, settings, address)

    def _make(self) -> None:
        self._call("pg_basebackup", "-D", str(self.base / "data"), "-d", self._primary.socket_url, "-R", "-c", "fast",
                   "--no-sync")  # fmt: skip

    def start(self) -> None:
        """Start it, and let no commit of the primary end without it."""
        super().start()
        self._primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._primary.run("SELECT pg_reload_conf()")
        in_step = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_for(lambda: self._primary.run(in_step) == ["1"], "the standby to be in step")

    def promote(self) -> None:
        """Be the primary."""
        self.run("SELECT pg_promote()")


@contextmanager
def postgresql(settings: tuple[str, ...] = SETTINGS) -> Iterator[PostgreSQL]:
    """A server that runs, in a directory that is removed with it."""
    if programs() is None:
        pytest.skip("postgresql is not installed")
    with tempfile.TemporaryDirectory(prefix="pyqmail-postgresql-") as base:
        server = PostgreSQL(Path(base), settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()
