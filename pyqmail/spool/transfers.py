"""Which messages of other nodes were taken in already: queue/pyqmail/transfers/NAME (qmail-xferd(8)).

    owner qmailq, 0700; one file for each transfer, kept for a week: ``+`` once its message is in the queue

Whoever takes a transfer in has the lock on its file. The mark is written and synced after todo/N is durable and before
the client hears of success. A crash in between means that the message comes a second time, never that it is lost. After
it the other node may ask again as often as it likes: the answer is success, and nothing is queued.
"""

import fcntl
import os
import time

from pyqmail.spool.layout import Layout
from pyqmail.system import files

KEPT_S = 7 * 86400
SWEPT_EVERY_S = 86400
TAKEN = b"+"


class TakenAlready(Exception):
    """The message of this transfer has been in the queue."""


class Transfers:
    """Those of one queue."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.transfers
        self._swept = 0.0

    def claim(self, name: bytes) -> int:
        """An open file that is the right to take the transfer ``name`` in. Raises TakenAlready, and OSError where that
        cannot be known or another process takes it in right now."""
        path = f"{self._folder}/{name.decode('ascii')}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.pread(fd, 1, 0) == TAKEN:
                raise TakenAlready
            if os.fstat(fd).st_nlink == 0:
                raise FileNotFoundError(path)  # another worker has just swept it
        except BaseException:
            os.close(fd)
            raise
        return fd

    def record(self, claim: int) -> None:
        """The message of this transfer is in the queue: remember it, durably. Raises OSError."""
        files.write_all(claim, TAKEN)
        files.sync(claim)
        files.sync_directory(self._folder)
        self._sweep()

    def _sweep(self) -> None:
        """Forget the old ones, once a day."""
        now = time.time()
        if now - self._swept < SWEPT_EVERY_S:
            return
        self._swept = now
        with os.scandir(self._folder) as entries:
            for entry in entries:
                try:
                    if entry.stat(follow_symlinks=False).st_mtime < now - KEPT_S:
                        files.unlink(entry.path)
                except FileNotFoundError:
                    continue  # another worker sweeps too
