"""What a channel asks of the rest of qmail-send."""

from collections.abc import Callable

from pyqmail.send.job import Delivery, Job
from pyqmail.spool.preprocess import New
from pyqmail.system.typed import Protocol


class Orders(Protocol):
    """Asked before anything is tried, because people may have ordered otherwise (send/queue_orders.py)."""

    def withholds(self, channel: str, number: int, now: int) -> bool:
        """Whether ``number``, which is due, must not be tried; then it is not ours any more."""

    def stops(self, number: int) -> bool:
        """Whether no further delivery of ``number`` may start."""

    def withholds_recipient(self, recipient: bytes) -> bool:
        """Whether ``recipient`` must not be tried."""

    def drop(self, number: int) -> bool:
        """Have ``number``, which others deliver, removed as by order; False when it is gone already."""

    def settled(self, number: int) -> None:
        """Nothing of ``number`` is under way in this channel any more."""


class Notices(Protocol):
    """What the sender of a message that has facts is told (send/notices.py)."""

    def unwanted(self, channel: str, delivery: Delivery) -> bool:
        """Whether the sender does not want to hear that ``delivery`` failed."""

    def reached(self, channel: str, delivery: Delivery, text: bytes) -> None:
        """``delivery`` has succeeded."""

    def late(self, channel: str, job: Job) -> None:
        """A pass over ``job`` has left recipients behind."""


class Messages(Protocol):
    """The rest of a message's life, beyond one channel."""

    @property
    def notices(self) -> Notices:
        """Who tells senders."""

    def fresh_delivered(self, number: int) -> None:
        """The only recipient of ``number`` is done, and there is nothing in info/ to remove."""

    def fresh_to_be_written(self, new: New, written: Callable[[bool], None]) -> None:
        """``new`` needs its files after all: true when they are durable and todo/N has gone, false at the end."""

    def channel_empty(self, name: str, number: int) -> None:
        """The last recipient of ``number`` in this channel is done."""
