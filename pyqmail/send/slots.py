"""The delivery numbers that a spawner knows its deliveries by (qmail-lspawn(8))."""

import heapq

from pyqmail.send.job import Delivery


class Slots:
    """The lowest free number below a limit that may change."""

    def __init__(self) -> None:
        self.used: dict[int, Delivery] = {}
        self._free: list[int] = []
        self._next = 0

    def take(self, delivery: Delivery) -> int:
        """The slot now used by ``delivery``."""
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot, self._next = self._next, self._next + 1
        self.used[slot] = delivery
        return slot

    def release(self, slot: int) -> Delivery | None:
        """The delivery of ``slot``, which is free now; None if it was not used."""
        delivery = self.used.pop(slot, None)
        if delivery is not None:
            heapq.heappush(self._free, slot)
        return delivery
