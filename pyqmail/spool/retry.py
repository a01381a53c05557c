"""When to try again: the quadratic schedule of qmail-send(8), and a heap of waiting messages."""

import heapq
from collections.abc import Iterator
from math import isqrt

ROOT_STEP = {"local": 10, "remote": 20}
TROUBLE_S = 123  # own file trouble: again after this
_NUMBER_BITS = 64
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1


def next_retry(birth: int, now: int, step: int) -> int:
    """The time of the attempt after the one at ``now``: retries come ever more rarely as the message ages."""
    return birth + (isqrt(max(0, now - birth)) + step) ** 2


class Schedule:
    """Messages by the second they are due; the earliest in O(log n), about 50 bytes each.

    An entry is a single integer, time above number, so that a million of them fit a small process.
    """

    def __init__(self) -> None:
        self._heap: list[int] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, number: int, when: int) -> None:
        """``number`` is due at ``when``."""
        heapq.heappush(self._heap, (max(0, when) << _NUMBER_BITS) | number)

    def next_time(self) -> int | None:
        """When the earliest is due; None when nothing waits."""
        return self._heap[0] >> _NUMBER_BITS if self._heap else None

    def pop_due(self, now: int) -> int | None:
        """The earliest number due by ``now``, taken out."""
        if self._heap and self._heap[0] >> _NUMBER_BITS <= now:
            return heapq.heappop(self._heap) & _NUMBER_MASK
        return None

    def all_due(self, now: int) -> None:
        """Everything is due at ``now``."""
        self._heap = [(now << _NUMBER_BITS) | (entry & _NUMBER_MASK) for entry in self._heap]
        heapq.heapify(self._heap)

    def items(self) -> Iterator[tuple[int, int]]:
        """Every (number, time), in no order."""
        return ((entry & _NUMBER_MASK, entry >> _NUMBER_BITS) for entry in self._heap)
