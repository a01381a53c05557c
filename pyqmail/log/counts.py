"""What counts the lines of a log, Statistics or the Summary of a report, and what both ways of reading a log tell it.

Deliveries and messages come many at once, since a long log has millions of them.
"""

from collections.abc import Iterable
from typing import Protocol, Self

from pyqmail.log.joiner import Delivery, Item, Message, Session, Trouble
from pyqmail.log.tables import RESULTS

PLACES = {result: place for place, result in enumerate(RESULTS)}


Ended = tuple[float | None, int, bytes, bytes, bytes, float | None]
"""A delivery: when, its place in RESULTS, channel, recipient, text, and when its message came."""
Left = tuple[float | None, bytes, int, bool]
"""A message that has left the queue: when, its sender, bytes, and whether it has bounced."""


class Counts(Protocol):
    """Counts what has happened. A time is in seconds of the epoch, None where a line has none."""

    def add_messages(self, messages: Iterable[Left]) -> None:
        """Messages have left the queue."""

    def add_deliveries(self, deliveries: Iterable[Ended]) -> None:
        """Deliveries have ended."""

    def add_session(self, when: float | None, result: str, words: bytes) -> None:
        """A door has decided; ``words``: `` key=value`` of what follows the recipients."""

    def add_trouble(self, when: float | None, text: bytes) -> None:
        """An alert or a warning: its line."""

    def merge(self, other: Self) -> None:
        """Add what ``other`` has counted."""


def add_item(counts: Counts, when: float | None, item: Item) -> None:
    """Count what the joiner has found."""
    match item:
        case Message():
            counts.add_messages([(when, _bytes(item.sender), item.size, item.bounced)])
        case Delivery():
            channel, recipient, text = item.channel.encode(), _bytes(item.recipient), _bytes(item.text)
            counts.add_deliveries([(when, PLACES[item.result], channel, recipient, text, item.message.began)])
        case Session():
            counts.add_session(when, item.result, _bytes(item.rest.partition(" ")[2]))
        case Trouble():
            counts.add_trouble(when, _bytes(item.text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
