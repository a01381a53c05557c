"""Prepared messages, many to one sync: syncing in the thread, then asked of qmail-clean (INTERNALS 3)."""

from collections.abc import Callable

from pyqmail.log.events import Warn
from pyqmail.send.background import Done
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.means import Means
from pyqmail.spool.preprocess import Prepared, make_durable
from pyqmail.system.typed import Protocol

BATCH = 32


class Outcome(Protocol):
    """Learns what came of a prepared message."""

    def committed(self, prepared: Prepared) -> None:
        """Its files are durable, and its todo/N has gone."""

    def failed(self, number: int, trouble: Warn) -> None:
        """It stays in todo/; ``trouble`` is for the log."""


class Batches:
    """While one batch syncs, the next gathers."""

    def __init__(self, means: Means, cleaner: Cleaner, outcome: Outcome) -> None:
        self._means = means
        self._cleaner = cleaner
        self._outcome = outcome
        self._ready: list[Prepared] = []
        self._syncing: list[Prepared] = []
        self._asked: set[int] = set()  # of qmail-clean

    @property
    def room(self) -> int:
        """How many more may be prepared now."""
        return BATCH - len(self._ready)

    @property
    def numbers(self) -> set[int]:
        """The messages on their way."""
        return {prepared.number for prepared in (*self._ready, *self._syncing)} | self._asked

    def add(self, prepared: Prepared) -> None:
        """Have ``prepared`` synced with the next batch."""
        self._ready.append(prepared)

    def start(self) -> None:
        """Begin to sync what has gathered, if no sync runs."""
        if self._syncing or not self._ready:
            return
        batch = self._syncing = self._ready
        self._ready = []
        layout = self._means.layout

        def sync() -> Done:
            answers = make_durable(layout, batch)
            return lambda: self._synced(batch, answers)

        self._means.background.submit(sync)

    def _synced(self, batch: list[Prepared], answers: list[Warn | None]) -> None:
        self._syncing = []
        self.start()
        for prepared, trouble in zip(batch, answers, strict=True):
            if trouble is None:
                self._asked.add(prepared.number)
                self._cleaner.ask(b"todo", prepared.number, self._cleaned(prepared))
            else:
                self._outcome.failed(prepared.number, trouble)

    def _cleaned(self, prepared: Prepared) -> Callable[[bool], None]:
        def answered(done: bool) -> None:
            self._asked.discard(prepared.number)
            if done:
                self._outcome.committed(prepared)
            else:
                trouble = Warn(b"qmail-clean unable to clean up todo/%d" % prepared.number)
                self._outcome.failed(prepared.number, trouble)

        return answered
