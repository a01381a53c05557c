"""How deliveries are ended: those that take too long, by one look a minute at all of them, and those told to end."""

import time
from collections.abc import Collection

from pyqmail.system.loop import Loop
from pyqmail.warm.collector import Collector

SIZE_PACE = 1024  # bytes of a message for each further second of a delivery
LOOK_S = 60.0  # from one look for deliveries that never end to the next
TOO_SLOW = b"ZThis delivery took too long and was ended. (#4.4.7)\n"
ENDED = b"ZThis delivery was ended: another machine may make it. (#4.4.7)\n"


class _Running:
    __slots__ = ("collector", "report", "slots", "until")

    def __init__(self, slots: Collection[int], until: float, collector: Collector) -> None:
        self.slots = slots
        self.until = until  # monotonic seconds
        self.collector = collector
        self.report = TOO_SLOW


class TimeLimits:
    """The deliveries that run, each with the time when it is given up.

    A whole delivery may take ``delivery_s``, and a second more for each SIZE_PACE bytes.
    """

    def __init__(self, loop: Loop, delivery_s: float) -> None:
        self._loop = loop
        self._delivery_s = delivery_s
        self._running: dict[int, _Running] = {}  # by the first of its slots
        self._looking = False

    def begin(self, slots: Collection[int], first: int, size: int, collector: Collector) -> None:
        """Give the delivery in ``slots``, of which ``first`` is one, up when it has taken too long."""
        self._running[first] = _Running(slots, time.monotonic() + self._delivery_s + size / SIZE_PACE, collector)
        if not self._looking:
            self._looking = True
            self._loop.call_later(LOOK_S, self._look)

    def drop(self, first: int) -> None:
        """Nothing was started."""
        self._running.pop(first, None)

    def end(self, slot: int) -> None:
        """Give up what runs in ``slot``, and with it what shares its program."""
        for running in [each for each in self._running.values() if slot in each.slots]:
            if not running.collector.given_up:
                running.report = ENDED
                running.collector.give_up()

    def ended(self, first: int, status: int | None) -> bytes | None:
        """The delivery has ended with ``status``: the report in place of its own, where it was ended from here."""
        running = self._running.pop(first)
        return running.report if running.collector.given_up and status is None else None

    def _look(self) -> None:
        now = time.monotonic()
        for late in [running.collector for running in self._running.values() if running.until <= now]:
            late.give_up()
        self._looking = bool(self._running)
        if self._looking:
            self._loop.call_later(LOOK_S, self._look)
