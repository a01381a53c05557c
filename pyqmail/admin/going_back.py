"""What in the queue an older version would not understand (qmail-setup --check, qmail-showctl --check).

Before an admin goes back to an older version, each ``Need`` here looks for messages that only a newer one treats
rightly. A feature that leaves something new in the queue adds its own to ``NEEDS``; a queue without any of that goes
back as it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyqmail.control import ControlUnreadable
from pyqmail.formats.facts import Facts
from pyqmail.spool import facts, sweep
from pyqmail.spool.layout import read_layout


@dataclass(frozen=True, slots=True)
class Need:
    """Something in the queue that a version before ``since``, and another qmail, does not know.

    ``find`` gives, for a home, each message that has it and what an older version would do with that message.
    """

    since: str
    find: Callable[[str], Iterator[tuple[int, str]]]


def _with_facts(home: str) -> Iterator[tuple[int, str]]:
    """Messages of which more is known than their envelopes can say."""
    try:
        layout = read_layout(home)
    except ControlUnreadable:
        return
    for number in sweep.with_facts(layout):
        try:
            found = facts.read(layout, number)
        except (facts.FactsLost, OSError):
            continue  # of a message that is gone
        yield number, "forgets " + " and ".join(_named(found))


def _named(found: Facts) -> list[str]:
    """What would be lost, in words."""
    words = ["what notices its sender wants (DSN)"] if found.asks_for_notices else []
    words += ["that its sender asked for SMTPUTF8"] if found.smtputf8 else []
    return words + (["that it may leave over verified TLS only (REQUIRETLS)"] if found.requiretls else [])


NEEDS: tuple[Need, ...] = (Need("0.2.0", _with_facts),)


def needs_of_queue(home: str) -> Iterator[str]:
    """A line for each queued message that an older version would treat otherwise. Raises OSError."""
    for need in NEEDS:
        for number, consequence in need.find(home):
            yield f"message {number} needs {need.since} or later: an older version {consequence}"
