"""What a worker shows of itself to its parent, in memory that they share: no system call tells it, none asks.

The parent believes nothing of it but that it changes; a worker that was made to write nonsense is replaced at most.
"""

import mmap
import struct

WAITING = 0  # for something to happen
BUSY = 1  # with what a client gave
DISK = 2  # with files of the queue, which may be slow and are nobody's fault
_FIELDS = struct.Struct("=QQB")  # turns, jobs taken, state
_DOOR = struct.Struct("=QI")  # connections accepted, those still open
_DOOR_AT = 32


class Pulse:
    """One worker's page, made by the parent before it forks."""

    __slots__ = ("_page", "_state", "_taken", "_turns")

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, _DOOR_AT + _DOOR.size)
        self._turns = self._taken = 0
        self._state = WAITING

    def show(self, state: int) -> None:
        """The worker is in ``state`` now, and alive."""
        self._turns += 1
        self._state = state
        _FIELDS.pack_into(self._page, 0, self._turns, self._taken, state)

    def beat(self) -> None:
        """The worker goes on with what it does."""
        self.show(self._state)

    def took(self) -> None:
        """The worker has received one more job."""
        self._taken += 1
        self.show(BUSY)

    def show_door(self, accepted: int, still_open: int) -> None:
        """What the worker has accepted for itself (intake/acceptance)."""
        _DOOR.pack_into(self._page, _DOOR_AT, accepted, still_open)

    def door(self) -> tuple[int, int]:
        """Connections accepted, and those still open, as the worker has last shown them."""
        accepted, still_open = _DOOR.unpack_from(self._page, _DOOR_AT)
        return accepted, still_open

    def read(self) -> tuple[int, int, int]:
        """Turns, jobs taken and state, as the worker has last shown them."""
        turns, taken, state = _FIELDS.unpack_from(self._page)
        return turns, taken, state

    def close(self) -> None:
        """The parent forgets the page; harmless for the worker's own."""
        self._page.close()
