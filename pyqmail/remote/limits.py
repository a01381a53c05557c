"""control/remotelimits: how many connections and messages the exchangers of one provider get (qmail-control(5)).

    SET:CONNECTIONS:MESSAGES/SECONDS

SET is the name of an exchanger, or what the names of several end in behind a dot, so that ``google.com`` is all of
Google's; the longest that fits counts. ``*`` is every other exchanger, each by itself. Both numbers may be left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pyqmail.control import ControlUnreadable

OTHERS = b"*"
CONNECTIONS_MAX = 65_535
NUMBER_MAX = 1_000_000_000  # messages, or seconds: what the table of remote/pace has room for


@dataclass(frozen=True, slots=True)
class Limit:
    """What one set of exchangers gets: connections at once, and messages in so many seconds; 0 is no limit."""

    name: bytes
    connections: int = 0
    messages: int = 0
    seconds: int = 0


Limits = Mapping[bytes, Limit]


def parse_limits(lines: Iterable[bytes]) -> Limits:
    """The limits by set. Raises ControlUnreadable for a line that is none: mail waits."""
    limits = [_parse(line) for line in lines]
    return {limit.name: limit for limit in limits}


def _parse(line: bytes) -> Limit:
    name, *numbers = (word.strip() for word in line.rsplit(b":", 2))  # an IPv6 address has colons too
    if len(numbers) == 2 and _plain(name):
        connections, (messages, slash, seconds) = numbers[0], numbers[1].partition(b"/")
        rate = (messages, seconds) if slash else (b"0", b"0") if not messages else (messages, b"")
        if all(word.isdigit() and len(word) <= 10 for word in (connections or b"0", *rate)):
            limit = Limit(_plain(name), int(connections or b"0"), int(rate[0]), int(rate[1]))
            small = limit.connections <= CONNECTIONS_MAX and max(limit.messages, limit.seconds) <= NUMBER_MAX
            if small and bool(limit.messages) == bool(limit.seconds):
                return limit
    raise ControlUnreadable("control/remotelimits: a line is not set:connections:messages/seconds")


def _plain(exchanger: bytes) -> bytes:
    return exchanger.strip(b"[]").rstrip(b".").lower()


def limit_of(limits: Limits, exchanger: bytes) -> Limit | None:
    """What counts for ``exchanger``, under the name of its set; None where no line does."""
    name = rest = _plain(exchanger)
    while rest:
        if rest in limits:
            return limits[rest]
        rest = rest.partition(b".")[2]
    others = limits.get(OTHERS)
    return replace(others, name=name) if others is not None else None
