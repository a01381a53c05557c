"""Counters with windows that slide: how many of a kind somebody has had in the last so many seconds.

A counter has two numbers: of the window that runs, and of the one before it, which counts by the part of it that is
less than ``seconds`` ago, as if its events had come evenly. No window of the clock has more than the limit, and after
a burst at its end room comes back little by little, without a list of each event. In memory this is written here: the
MemoryStorage of `limits` goes by the wall clock, needs a thread, and with 100,000 counters takes 35 MiB besides 11 for
its import. Shared by several machines the same windows are counted by `limits` itself (state/shared).
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyqmail.protocol.state import NUMBER_MAX, Rule
from pyqmail.state.table import Table

_COUNTER = struct.Struct("<IIII")  # number of the window, events in it, events in the one before, events refused


@dataclass(frozen=True, slots=True)
class Over:
    """A rule that has no room, and the seconds until it may have."""

    rule: Rule
    seconds: int


@dataclass(frozen=True, slots=True)
class Count:
    """What a counter stands at; ``refused`` are events that were over it."""

    key: bytes
    kind: bytes
    seconds: int
    count: int
    refused: int


def counter_name(key: bytes, rule: Rule) -> bytes:
    """The name of the counter of ``key`` for ``rule``: a limit that is changed goes on with the same."""
    return b"%b %d %b" % (rule.kind, rule.seconds, key)


class Windows:
    """The counters in ``table``. ``now`` is in seconds of a clock that only goes forward."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def take(self, key: bytes, rules: Iterable[Rule], now: float) -> Over | None:
        """Count by all ``rules``, or by none and say which is over."""
        states = []
        for rule in rules:
            name = counter_name(key, rule)
            state = self._state(name, rule.seconds, now)
            if weighted(state, rule.seconds, now) + rule.amount > rule.most:
                number, current, previous, refused = state
                self._put(name, rule, (number, current, previous, min(refused + rule.amount, NUMBER_MAX)))
                return Over(rule, room_after(state, rule, now))
            states.append((name, rule, state))
        for name, rule, (number, current, previous, refused) in states:
            self._put(name, rule, (number, min(current + rule.amount, NUMBER_MAX), previous, refused))
        return None

    def _state(self, name: bytes, seconds: int, now: float) -> tuple[int, int, int, int]:
        value = self._table.get(name, int(now))
        number = int(now // seconds)
        if value is None:
            return number, 0, 0, 0
        last, current, previous, refused = _COUNTER.unpack(value)
        if last == number:
            return number, current, previous, refused
        return number, 0, current if last == number - 1 else 0, refused

    def _put(self, name: bytes, rule: Rule, state: tuple[int, int, int, int]) -> None:
        expires = (state[0] + 2) * rule.seconds + 1
        self._table.put(name, _COUNTER.pack(*state), min(expires, NUMBER_MAX))

    def counts(self, now: float) -> Iterator[Count]:
        """All counters."""
        for name, _ in list(self._table.items(int(now))):
            kind, seconds, key = name.split(b" ", 2)
            state = self._state(name, int(seconds), now)
            yield Count(key, kind, int(seconds), int(weighted(state, int(seconds), now)), state[3])

    def reset(self, key: bytes, now: float) -> int:
        """Forget the counters of ``key``; how many there were."""
        names = [name for name, _ in self._table.items(int(now)) if name.split(b" ", 2)[2] == key]
        for name in names:
            self._table.remove(name)
        return len(names)


def weighted(state: tuple[int, int, int, int], seconds: int, now: float) -> float:
    """The events that count in the last ``seconds``."""
    return state[2] * (1 - now % seconds / seconds) + state[1]


def room_after(state: tuple[int, int, int, int], rule: Rule, now: float) -> int:
    """Seconds until there may be room for ``rule``, were nothing else to come; at most two windows."""
    left = rule.seconds - now % rule.seconds  # of the window that runs
    spare = rule.most - rule.amount
    if spare < 0:
        return 2 * rule.seconds
    if state[1] <= spare and state[2]:
        return max(1, int(left - rule.seconds * (spare - state[1]) / state[2]) + 1)
    return int(left + rule.seconds * (1 - spare / state[1])) + 1 if state[1] else 1
