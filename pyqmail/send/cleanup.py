"""The walk through mess/ for what nobody owns any more, once a day or so and a little per turn (INTERNALS)."""

import time
from collections.abc import Callable, Iterator

from pyqmail.send.background import Background
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.leaving import Leaving
from pyqmail.send.loading import Loading
from pyqmail.send.means import Means
from pyqmail.send.retry import NEVER
from pyqmail.spool import sweep

SLICE_S = 0.003  # how long a turn may walk
SWEEP_S = 76431


class Cleanup:
    """Finds stale messages and has them removed; sweeps the notes of attempts too, in a thread of its own."""

    def __init__(self, means: Means, cleaner: Cleaner, leaving: Leaving, loading: Loading) -> None:
        self._means = means
        self._cleaner = cleaner
        self._leaving = leaving
        self._loading = loading
        self._notes = Background(means.loop, means.log)
        self._walk: Iterator[int | None] | None = None
        self._at = 0.0

    def next_time(self) -> float:
        """When there is something to do for ``step``: no walk begins while the queue found at the start is read."""
        if self._walk is None:
            return NEVER if self._loading.under_way else self._at
        return NEVER if self._cleaner.busy else 0

    def step(self, now: float) -> None:
        """Walk on for a moment; begin a walk when it is time."""
        if self._walk is None:
            self._at = now + SWEEP_S
            self._walk = sweep.stale(self._means.layout, now)
            self._notes.submit(self._sweep_notes)
        until = time.monotonic() + SLICE_S
        while not self._cleaner.busy and time.monotonic() < until:
            try:
                number = next(self._walk)
            except StopIteration:
                self._walk = None
                return
            if number is not None:
                self._leaving.clean(number)

    def _sweep_notes(self) -> Callable[[], None]:
        self._means.history.sweep()
        return lambda: None
