"""What this machine knows by itself: counters and newcomers in memory (qmail-stated(8))."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from pyqmail.protocol.state import Rule
from pyqmail.state.clock import Clock
from pyqmail.state.firsts import Firsts
from pyqmail.state.table import Table
from pyqmail.state.windows import Count, Over, Windows

COUNTERS_MAX = 400_000  # two windows of messages and two of recipients for 100,000 users
STRANGERS_MAX = 200_000  # newcomers; they have room of their own, so that no flood of them makes a limit be forgotten


class Store(Protocol):
    """Where things are kept."""

    def take(self, key: bytes, rules: Sequence[Rule]) -> Over | None:
        """Count by all ``rules``, or by none and say which is over."""

    def left(self, key: bytes, wait_s: int, again_s: int, keep_s: int) -> int:
        """Seconds that a stranger still has to wait (state/firsts)."""

    def counts(self) -> Iterator[Count]:
        """All counters."""

    def reset(self, key: bytes) -> int:
        """Forget the counters of ``key``; how many there were."""


class Local:
    """A Store in memory; ``tables`` are what a file keeps."""

    def __init__(self, clock: Clock) -> None:
        self.tables = Table(COUNTERS_MAX), Table(STRANGERS_MAX)
        self._clock = clock
        self._windows = Windows(self.tables[0])
        self._firsts = Firsts(self.tables[1])

    def take(self, key: bytes, rules: Sequence[Rule]) -> Over | None:
        """As Store says."""
        return self._windows.take(key, rules, self._clock.now())

    def left(self, key: bytes, wait_s: int, again_s: int, keep_s: int) -> int:
        """As Store says."""
        return self._firsts.left(key, wait_s, again_s, keep_s, self._clock.now())

    def counts(self) -> Iterator[Count]:
        """As Store says."""
        return self._windows.counts(self._clock.now())

    def reset(self, key: bytes) -> int:
        """As Store says."""
        return self._windows.reset(key, self._clock.now())

    def sweep(self) -> None:
        """Forget what has expired."""
        for table in self.tables:
            table.sweep(int(self._clock.now()))

    def clear(self) -> None:
        """Forget all."""
        for table in self.tables:
            table.clear()
