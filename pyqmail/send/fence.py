"""When running deliveries of messages that have copies are ended: before others may adopt these (qmail-shadowd(8)).

      ──► the lease ──────────► its end ──────────► half of the margin ──► the margin's end
          deliveries start      none starts         what runs is ended     another node may adopt

A half is left because the end of a delivery takes a moment. What has been adopted already is ended at once.
"""

from collections.abc import Callable, Collection
from functools import partial

from pyqmail.log.events import Warn
from pyqmail.log.sinks import Sink
from pyqmail.system.typed import Protocol

AGAIN_S = 1.0  # after there was no memory for it
LOOK_S = 5.0  # from one look at the clock to the next: timers stand still while the machine is suspended

Whose = Callable[[bytes], bool]  # whether it is a copy of one of those messages


class Deliveries(Protocol):
    """Those of one channel."""

    def end(self, whose: Whose) -> int:
        """End those of such messages; how many are ended by that."""


class Fence:
    """One for all ``channels``. ``later`` calls after seconds; those of ``clock`` do not stand still."""

    def __init__(
        self, later: Callable[[float, Callable[[], None]], object], clock: Callable[[], float], log: Sink
    ) -> None:
        self.channels: list[Deliveries] = []
        self._later = later
        self._clock = clock
        self._log = log
        self._until = 0.0

    def renewed(self, until: float, margin_s: float) -> None:
        """The lease holds until ``until``, and nobody may adopt for ``margin_s`` seconds more.

        One that ends sooner than the last one changes nothing: a qmail-shadowd that has just begun knows of none.
        """
        if until > self._until:
            self._until = until
            self._wait(until, until + margin_s / 2)

    def _wait(self, until: float, last: float) -> None:
        self._later(max(0.0, min(last - self._clock(), LOOK_S)), partial(self._look, until, last))

    def _look(self, until: float, last: float) -> None:
        """End what runs at ``last``, unless the lease holds longer than ``until`` by then."""
        if until == self._until and self._clock() < last:
            self._wait(until, last)
        elif until == self._until:
            self._end(partial(self._lost, until), b"no lease: ")

    def taken(self, identities: Collection[bytes]) -> None:
        """Other nodes have these copies."""
        self._end(frozenset(identities).__contains__, b"others have adopted messages: ")

    def _lost(self, until: float, identity: bytes) -> bool:
        """Whether that is a copy, and the lease that ended at ``until`` was the last one."""
        return bool(identity) and until == self._until

    def _end(self, whose: Whose, why: bytes) -> None:
        try:
            count = sum(deliveries.end(whose) for deliveries in self.channels)
        except MemoryError:
            self._later(AGAIN_S, partial(self._end, whose, why))
            raise
        if count:
            self._log(Warn(b"%bdeliveries under way are ended: %d" % (why, count)))
