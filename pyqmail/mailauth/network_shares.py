"""How many workers of qmail-verifyd one network may keep busy, counted in memory that the workers share.

Who sends from names whose servers are silent holds a worker for all of its time. So that others are answered too, one
network has half of the workers; who comes beyond that waits a moment, as most answers take milliseconds, and then
hears nothing, which is temporary.
"""

import hashlib
import mmap
import select
import time

WAIT_S = 2.0  # for a share, at most
POLL_MIN_S, POLL_MAX_S = 0.001, 0.02  # between two looks: the first ones soon, as most answers take milliseconds
_MARK = 8  # bytes that stand for a network


class NetworkShares:
    """A slot for each of ``workers``; at most ``most`` have the same network."""

    def __init__(self, workers: int, most: int) -> None:
        self._slots = mmap.mmap(-1, workers * _MARK)
        self._workers = workers
        self._most = most

    def take(self, slot: int, network: bytes, wait_s: float = WAIT_S) -> bool:
        """Let the worker of ``slot`` serve ``network``, once it may; whether it may. Two at once may be too many."""
        mark = hashlib.blake2b(network, digest_size=_MARK).digest()
        until, pause_s = time.monotonic() + wait_s, POLL_MIN_S
        while sum(self._mark(each) == mark for each in range(self._workers) if each != slot) >= self._most:
            if time.monotonic() >= until:
                return False
            select.select([], [], [], pause_s)
            pause_s = min(2 * pause_s, POLL_MAX_S)
        self._put(slot, mark)
        return True

    def free(self, slot: int) -> None:
        """Its worker is idle, or gone."""
        self._put(slot, bytes(_MARK))

    def _mark(self, slot: int) -> bytes:
        return self._slots[slot * _MARK : (slot + 1) * _MARK]

    def _put(self, slot: int, mark: bytes) -> None:
        self._slots[slot * _MARK : (slot + 1) * _MARK] = mark
