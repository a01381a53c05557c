"""What the two channels count together: the numbers of deliveries, and the status line (qmail-log(5))."""

from collections.abc import Mapping

from pyqmail.log.events import Running
from pyqmail.send.means import Means
from pyqmail.system.typed import Protocol


class Busy(Protocol):
    """The deliveries of a channel."""

    @property
    def running(self) -> int:
        """How many are under way."""

    @property
    def limit(self) -> int:
        """How many may be."""


class Status:
    """One for both channels."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._serial = 0
        self.channels: Mapping[str, Busy] = {}

    def next_serial(self) -> int:
        """The number of the next delivery; it counts from 1 and never starts again."""
        self._serial += 1
        return self._serial

    def running(self) -> Running:
        """The status line."""
        local, remote = self.channels["local"], self.channels["remote"]
        return Running(local.running, local.limit, remote.running, remote.limit, self._means.exiting)
