"""How long deliveries may take: one look a minute at all of them."""

import time

from pyqmail.system.loop import Loop
from pyqmail.warm.collector import Collector

SIZE_PACE = 1024  # bytes of a message for each further second of a delivery
LOOK_S = 60.0  # from one look for deliveries that never end to the next


class TimeLimits:
    """The deliveries that run, each with the time when it is given up.

    A whole delivery may take ``delivery_s``, and a second more for each SIZE_PACE bytes.
    """

    def __init__(self, loop: Loop, delivery_s: float) -> None:
        self._loop = loop
        self._delivery_s = delivery_s
        self._running: dict[int, tuple[float, Collector]] = {}  # by one of its slots: when it is given up
        self._looking = False

    def begin(self, slot: int, size: int, collector: Collector) -> None:
        """Give the delivery up when it has taken too long: one look a minute at all of them."""
        self._running[slot] = time.monotonic() + self._delivery_s + size / SIZE_PACE, collector
        if not self._looking:
            self._looking = True
            self._loop.call_later(LOOK_S, self._look)

    def drop(self, slot: int) -> None:
        """Nothing was started for ``slot``."""
        self._running.pop(slot, None)

    def ended_late(self, slot: int, status: int | None) -> bool:
        """The delivery of ``slot`` has ended with ``status``; whether it was ended because it took too long."""
        return self._running.pop(slot)[1].given_up and status is None

    def _look(self) -> None:
        now = time.monotonic()
        for late in [collector for until, collector in self._running.values() if until <= now]:
            late.give_up()
        self._looking = bool(self._running)
        if self._looking:
            self._loop.call_later(LOOK_S, self._look)
