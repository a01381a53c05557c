"""The delivery numbers that a spawner knows its deliveries by (qmail-lspawn(8))."""

import heapq
from collections.abc import Sequence

from pyqmail.protocol.spawn import TOGETHER_MAX
from pyqmail.send.job import Delivery


class Slots:
    """The lowest free number below a limit that may change, with the deliveries of its command by their places."""

    def __init__(self) -> None:
        self.used: dict[int, dict[int, Delivery]] = {}
        self._free: list[int] = []
        self._next = 0

    def take(self, deliveries: Sequence[Delivery]) -> int:
        """The slot now used by ``deliveries``."""
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot, self._next = self._next, self._next + 1
        self.used[slot] = dict(enumerate(deliveries))
        return slot

    def release(self, slot: int, first: int = 0, last: int = 0) -> list[Delivery]:
        """The deliveries from place ``first`` to ``last`` that ``slot`` still had; it is free when none is left."""
        waiting = self.used.get(slot, {})
        found = [waiting.pop(place) for place in range(first, min(last, TOGETHER_MAX) + 1) if place in waiting]
        if found and not waiting:
            del self.used[slot]
            heapq.heappush(self._free, slot)
        return found
