"""When to try again: the quadratic schedule of qmail-send(8), and a heap of waiting messages."""

import heapq
from collections import deque
from collections.abc import Iterator, Set
from itertools import chain
from math import isqrt

ROOT_STEP = {"local": 10, "remote": 20}
NEVER = float("inf")
TROUBLE_S = 123  # own file trouble: again after this
_NUMBER_BITS = 64
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1


def next_retry(birth: int, now: int, step: int) -> int:
    """The time of the attempt after the one at ``now``: retries come ever more rarely as the message ages.

    A birth in the future, of a clock that went back since, counts as now.
    """
    birth = min(birth, now)
    return birth + (isqrt(now - birth) + step) ** 2


class Schedule:
    """Messages by the second they are due; the earliest in O(log n), about 60 bytes each.

    An entry is a single integer, time above number, so that a million of them fit a small process.  New messages wait
    in a line of their own: as long as both have something due they are served in turn, so that neither a new message
    has to wait for a hundred thousand old ones that came due together (a restart, SIGALRM), nor they for new ones.
    """

    def __init__(self) -> None:
        self._heap: list[int] = []
        self._new: deque[int] = deque()
        self._new_next = True

    def __len__(self) -> int:
        return len(self._heap) + len(self._new)

    def add(self, number: int, when: int) -> None:
        """``number`` is due at ``when``."""
        heapq.heappush(self._heap, (max(0, when) << _NUMBER_BITS) | number)

    def add_new(self, number: int, now: int) -> None:
        """``number`` was never tried and is due at once."""
        self._new.append((now << _NUMBER_BITS) | number)

    def next_time(self) -> float:
        """When the earliest is due, a whole second; NEVER when nothing waits."""
        if self._new:
            return 0
        return self._heap[0] >> _NUMBER_BITS if self._heap else NEVER

    def pop_due(self, now: int) -> int | None:
        """The number to serve next of those due by ``now``, taken out."""
        due = bool(self._heap) and self._heap[0] >> _NUMBER_BITS <= now
        if self._new and (self._new_next or not due):
            self._new_next = False
            return self._new.popleft() & _NUMBER_MASK
        self._new_next = True
        return heapq.heappop(self._heap) & _NUMBER_MASK if due else None

    def all_due(self, now: int) -> None:
        """Everything is due at ``now``."""
        heap = self._heap
        for index, entry in enumerate(heap):
            heap[index] = (now << _NUMBER_BITS) | (entry & _NUMBER_MASK)
        heap.sort()  # a sorted list is a heap

    def items(self) -> Iterator[tuple[int, int]]:
        """Every (number, time), in no order."""
        return ((entry & _NUMBER_MASK, entry >> _NUMBER_BITS) for entry in chain(self._heap, self._new))

    def snapshot(self) -> Iterator[tuple[int, int]]:
        """Every (number, time) as of now, in no order, whatever is added and served meanwhile."""
        entries = [*self._heap, *self._new]
        return ((entry & _NUMBER_MASK, entry >> _NUMBER_BITS) for entry in entries)

    def make_due(self, wanted: Set[int], now: int) -> None:
        """What waits of ``wanted`` is due at ``now``."""
        heap = self._heap
        for index, entry in enumerate(heap):
            if entry & _NUMBER_MASK in wanted:
                heap[index] = (now << _NUMBER_BITS) | (entry & _NUMBER_MASK)
        heapq.heapify(heap)

    def remove(self, numbers: Set[int]) -> None:
        """None of ``numbers`` waits here any more."""
        heap = [entry for entry in self._heap if entry & _NUMBER_MASK not in numbers]
        if len(heap) < len(self._heap):
            self._heap = heap
            heapq.heapify(heap)
        if self._new:
            self._new = deque(entry for entry in self._new if entry & _NUMBER_MASK not in numbers)
