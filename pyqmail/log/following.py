"""Logs that grow, read piece by piece by a process that must never wait for them: files and the journal."""

import os
import subprocess
from collections.abc import Iterator
from typing import IO, Protocol

from pyqmail.log.events import Known
from pyqmail.log.sources import open_ordinary, replaced
from pyqmail.log.twins import Twins
from pyqmail.system.readiness import without_request

TAIL = 4 << 20  # bytes of a log that are read of what was there before
PIECE = 1 << 18  # bytes at a time
LINE_MAX = 1 << 16  # bytes; of a longer line the rest is left out
JOURNAL_LINES = 20_000  # of what was there before


class Growing(Protocol):
    """A log that grows."""

    name: str

    def read(self) -> bytes:
        """What has come since, ``PIECE`` bytes at most; empty if that is nothing for now. Raises OSError."""

    def close(self) -> None:
        """No more."""


class GrowingFile:
    """A file from its last ``TAIL`` bytes on, and the one that takes its place."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._file: IO[bytes] | None = None
        self._begun = False

    def read(self) -> bytes:
        """What has been added."""
        if self._file is None:
            self._file = open(open_ordinary(self.name), "rb", buffering=0)
            if not self._begun:
                self._file.seek(max(0, self._file.seek(0, os.SEEK_END) - TAIL))
            self._begun = True
        data = self._file.read(PIECE)
        if not data and replaced(self._file.fileno(), self.name):
            data = self._file.read(PIECE)  # it may have been written to between the two looks
            if not data:
                self.close()
        return data

    def close(self) -> None:
        """No more of this file; another look is one at what is there by then."""
        if self._file is not None:
            self._file.close()
            self._file = None


class GrowingJournal:
    """The lines of the systemd units that match ``name``, as journalctl(1) says them. Raises OSError."""

    def __init__(self, name: str) -> None:
        self.name = name
        words = ["journalctl", "-f", "-q", "-o", "short-unix", "--no-pager", "-n", str(JOURNAL_LINES), "-u", name]
        environ = without_request(os.environb)  # systemd 257's commands tell it how they have failed
        self._process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environ, bufsize=0
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)

    def read(self) -> bytes:
        """What it has said; OSError once it has ended."""
        data = self._output.read(PIECE)
        if data == b"":
            raise OSError(f"journalctl has ended with {self._process.wait()}")
        return data or b""

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._output.close()


class FollowedLog:
    """The events of one log."""

    def __init__(self, source: Growing) -> None:
        self.source = source
        self._partial = b""
        self._twins = Twins()

    def events(self) -> Iterator[tuple[float | None, Known | None]]:
        """Time and event of each line of the next piece; None for what is not known. Raises OSError."""
        *lines, partial = (self._partial + self.source.read()).split(b"\n")
        self._partial = partial[:LINE_MAX]
        for line in lines:
            parsed = self._twins.parse(line[:LINE_MAX].decode("utf-8", "surrogateescape"))
            if parsed is not None:
                yield parsed
