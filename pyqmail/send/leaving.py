"""Messages on their way out: their names durably gone first, then mess/N removed by qmail-clean (qmail-clean(8))."""

import os

from pyqmail.log.events import Warn
from pyqmail.send.background import Done
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.means import Means
from pyqmail.system import files

GATHER_S = 0.1  # nobody waits for a file that is left over, and each sync has other syncs wait for the disk
GATHER_MAX = 256


class Leaving:
    """Has messages removed, many to one sync."""

    def __init__(self, means: Means, cleaner: Cleaner) -> None:
        self._means = means
        self._cleaner = cleaner
        self._leaving: list[tuple[int, tuple[str, ...]]] = []
        self._syncing = False
        self._gathering = False

    def clean(self, number: int, *folders: str) -> None:
        """Have qmail-clean remove the message itself, once the names removed from ``folders`` are durably gone.

        With mess/N its inode is free for another message; a name that a power cut brought back would send that one to
        the old recipients, or with bounce/N tell its sender of their failures.
        """
        if not folders:
            self._remove(number)
            return
        self._leaving.append((number, folders))
        if len(self._leaving) >= GATHER_MAX or self._means.exiting:
            self._sync_names()
        elif not self._gathering:
            self._gathering = True
            self._means.loop.call_later(GATHER_S, self._gathered)

    @property
    def idle(self) -> bool:
        """Whether no message is on its way out."""
        return not self._leaving and not self._syncing  # what waits for qmail-clean is seen there

    def _gathered(self) -> None:
        self._gathering = False
        self._sync_names()

    def _sync_names(self) -> None:
        if self._syncing or not self._leaving:
            return
        batch, self._leaving = self._leaving, []
        self._syncing = True

        def sync() -> Done:
            durable = _synced({folder for _, folders in batch for folder in folders})
            return lambda: self._names_synced(batch, durable)

        self._means.background.submit(sync)

    def _names_synced(self, batch: list[tuple[int, tuple[str, ...]]], durable: bool) -> None:
        self._syncing = False
        if not self._gathering:  # the time of those that came meanwhile is over
            self._sync_names()
        if not durable:
            self._means.log(Warn(b"unable to sync the queue's directories; messages stay for the cleanup"))
            return
        for number, _ in batch:
            self._remove(number)

    def _remove(self, number: int) -> None:
        if number in self._means.facts:  # later than todo/N, which names them, and sooner than mess/N, which they fit
            folder = os.path.dirname(self._means.layout.facts(number))
            self._means.facts.remove(self._cleaner, number, lambda: self.clean(number, folder))
            return

        def answered(done: bool) -> None:
            if not done:
                self._means.log(Warn(b"qmail-clean unable to clean up foop/%d" % number))

        self._cleaner.ask(b"foop", number, answered)


def _synced(folders: set[str]) -> bool:
    try:
        for folder in folders:
            files.sync_directory(folder)
    except OSError:
        return False
    return True
