"""What in the queue an older version would not understand (qmail-setup --check, qmail-showctl --check).

Before an admin goes back to an older version, each ``Need`` here looks for messages that only a newer one treats
rightly. A feature that leaves something new in the queue adds its own to ``NEEDS``; a queue without any of that goes
back as it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """Something in the queue that a version before ``since`` does not know.

    ``find`` gives, for a home, each message that has it and what an older version would do with that message.
    """

    since: str
    find: Callable[[str], Iterator[tuple[int, str]]]


NEEDS: tuple[Need, ...] = ()


def needs_of_queue(home: str) -> Iterator[str]:
    """A line for each queued message that an older version would treat otherwise. Raises OSError."""
    for need in NEEDS:
        for number, consequence in need.find(home):
            yield f"message {number} needs {need.since} or later: an older version {consequence}"
