"""control/remotelimits at work: the table that all qmail-remote processes share (qmail-remote(8)).

queue/pyqmail/remotelimits has RECORDS records: 8 bytes of a digest of the set's name, and its pace (remote/pace).
Whoever changes it holds flock. A connection holds a lock on one byte far behind the table, which ends with its process
whatever happens, so that nothing has to be counted back. Any trouble with the file means: as if there were no limits,
since they save others trouble, and no mail depends on them.
"""

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Callable

from pyqmail.failure import TemporaryFailure
from pyqmail.formats.report import all_in_use, paused
from pyqmail.remote.limits import CONNECTIONS_MAX, Limit, Limits, limit_of
from pyqmail.remote.pace import SIZE, Pace, connections, counted, faster, parse_pace, pause_s, slower

RECORDS = 512  # sets that are known at once; the one not heard of for longest makes room
KEY = 8
RECORD = KEY + SIZE
FILE = "/queue/pyqmail/remotelimits"
_LOCK = struct.Struct("hhqqi0q")  # a struct flock


def digest(name: bytes) -> bytes:
    """What a set is known by in the table."""
    return hashlib.blake2b(name, digest_size=KEY).digest()


class Slot:
    """One of the connections that a set may have, until it is closed."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Leave it to somebody else."""
        os.close(self._fd)


def take_slot(path: str, name: bytes, most: int) -> Slot | None:
    """One of ``most`` slots of the set ``name``, None when all are taken. Raises OSError.

    The lock belongs to the open file, so that one process may have several.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        start = (1 << 56) + (int.from_bytes(digest(name)[:4], "big") << 16)
        for place in range(most):
            wanted = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start + place, 1, 0)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
                return Slot(fd)
            except BlockingIOError:
                continue
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


class Table:
    """The paces by set, in the file at ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, name: bytes) -> Pace:
        """What is known of the set ``name``. Raises OSError."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _find(os.pread(fd, RECORDS * RECORD, 0), digest(name))[1]
        finally:
            os.close(fd)

    def change(self, name: bytes, change: Callable[[Pace], Pace]) -> None:
        """Keep what ``change`` makes of the pace of ``name``. Raises OSError."""
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            at, pace = _find(os.pread(fd, RECORDS * RECORD, 0), digest(name))
            changed = change(pace)
            if changed != pace:
                os.pwrite(fd, digest(name) + changed.format(), at)
        finally:
            os.close(fd)


def _find(table: bytes, key: bytes) -> tuple[int, Pace]:
    """Where the record of ``key`` is, or may be put, and its pace."""
    whole = len(table) // RECORD * RECORD
    for at in range(0, whole, RECORD):
        if table.startswith(key, at):
            return at, parse_pace(table[at + KEY : at + RECORD])
    if whole < RECORDS * RECORD:
        return whole, Pace()
    oldest = min(range(0, whole, RECORD), key=lambda at: _heard(parse_pace(table[at + KEY : at + RECORD])))
    return oldest, Pace()


def _heard(pace: Pace) -> int:
    return max(pace.when, pace.until)


def _no_pause(limit: Limit, wait_s: int) -> None:
    if wait_s:
        raise TemporaryFailure(paused(limit.name, wait_s))


class Limiter:
    """Keeps the deliveries of one process within ``limits`` of the tree at ``home``; ``clock`` is time.time."""

    def __init__(self, home: str, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self.limits = limits
        self._path = home + FILE
        self._table = Table(self._path)
        self._clock = clock

    def connection(self, exchanger: bytes) -> Slot | None:
        """A place for one connection more, and its first message counted; None where no place is needed.

        Raises TemporaryFailure: not now.
        """
        limit = limit_of(self.limits, exchanger)
        if limit is None:
            return None
        try:
            pace = self._table.read(limit.name)
            _no_pause(limit, pause_s(pace, int(self._clock())))
            most = connections(pace, limit)
            slot = take_slot(self._path, limit.name, min(most, CONNECTIONS_MAX)) if most else None
        except OSError:
            return None
        if most and slot is None:
            raise TemporaryFailure(all_in_use(limit.name, most))
        try:
            if limit.messages:
                self.message(exchanger)
        except TemporaryFailure:
            if slot is not None:
                slot.close()
            raise
        return slot

    def message(self, exchanger: bytes) -> None:
        """Count one message more. Raises TemporaryFailure: not now."""
        limit = limit_of(self.limits, exchanger)
        if limit is None:
            return
        now, wait_s = int(self._clock()), 0

        def count(pace: Pace) -> Pace:
            nonlocal wait_s
            wait_s = pause_s(pace, now)
            if not wait_s:
                pace, wait_s = counted(pace, limit, now)
            return pace

        try:
            if limit.messages:
                self._table.change(limit.name, count)
            else:
                count(self._table.read(limit.name))
        except OSError:
            return
        _no_pause(limit, wait_s)

    def heard(self, exchanger: bytes, *, less: bool, accepted: bool) -> None:
        """A conversation is over, in which we were asked for ``less``, or a message was ``accepted``."""
        limit = limit_of(self.limits, exchanger)
        if limit is None or not (less or accepted):
            return
        now = int(self._clock())
        try:
            if less or self._table.read(limit.name).level:
                self._table.change(limit.name, lambda pace: slower(pace, now) if less else faster(pace, now))
        except OSError:
            return
