"""How fast a set of exchangers is gone about: what is known of it, and what follows from an answer. No descriptors.

Who answers 421, or 4.7.x to anything but a greylisted recipient, asks for less: there is a pause, of a minute first and
twice as long each time, and afterwards half as many connections. A minute with a message accepted takes one such step
back. So what a provider takes is found out without its being told.
"""

import struct
from dataclasses import dataclass, replace

from pyqmail.protocol.state import Rule
from pyqmail.remote.limits import Limit
from pyqmail.state.windows import room_after, weighted

FIRST_PAUSE_S = 60
LEVEL_MAX = 6  # the longest pause is 32 minutes
STEP_BACK_S = 60
CONNECTIONS = 20  # to begin to halve from, where there is no limit: qmail's concurrencyremote

_PACE = struct.Struct("<IIIIII")
SIZE = _PACE.size


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of one set. Times are in seconds of the epoch; ``window`` is the number of one of the limit's."""

    level: int = 0  # how often it has asked for less, less the steps back
    when: int = 0  # the last change of level
    until: int = 0  # no message before
    window: int = 0
    current: int = 0  # messages in that window
    previous: int = 0  # and in the one before it

    def format(self) -> bytes:
        """SIZE bytes, little-endian."""
        return _PACE.pack(self.level, self.when, self.until, self.window, self.current, self.previous)


def parse_pace(data: bytes) -> Pace:
    """The pace in SIZE bytes."""
    return Pace(*_PACE.unpack(data))


def slower(pace: Pace, now: int) -> Pace:
    """After an answer that asks for less; those that come during a pause are of the same moment as its first."""
    if pause_s(pace, now):
        return pace
    level = min(pace.level + 1, LEVEL_MAX)
    return replace(pace, level=level, when=now, until=now + (FIRST_PAUSE_S << level - 1))


def faster(pace: Pace, now: int) -> Pace:
    """After a message was accepted."""
    if pace.level and not pause_s(pace, now) and abs(now - max(pace.when, pace.until)) >= STEP_BACK_S:
        return replace(pace, level=pace.level - 1, when=now, until=0)
    return pace


def pause_s(pace: Pace, now: int) -> int:
    """How long nothing is to be sent; nor longer than a pause lasts, if the clock has gone back."""
    left = pace.until - now
    return left if 0 < left <= FIRST_PAUSE_S << LEVEL_MAX - 1 else 0


def connections(pace: Pace, limit: Limit) -> int:
    """How many connections there may be; 0 is any number."""
    if not pace.level:
        return limit.connections
    return max(1, (limit.connections or CONNECTIONS) >> pace.level)


def counted(pace: Pace, limit: Limit, now: int) -> tuple[Pace, int]:
    """With one message more; or as it was, and the seconds until there may be room for one."""
    if not limit.messages:
        return pace, 0
    number, current = now // limit.seconds, pace.current
    if pace.window != number:
        current, previous = 0, pace.current if pace.window == number - 1 else 0
    else:
        previous = pace.previous
    state = (number, current, previous, 0)
    rule = Rule(b"messages", 1, limit.messages, limit.seconds)
    if weighted(state, rule.seconds, now) + 1 > rule.most:
        return pace, room_after(state, rule, now)
    return replace(pace, window=number, current=current + 1, previous=previous), 0
