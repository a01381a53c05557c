"""queue/lock/tcpto: hosts that timed out lately, shared by all qmail-remote processes (qmail-remote(8), INTERNALS).

1024 bytes, 64 records of 16:

    0-3   IPv4 address, network order      4      timeouts counted, 0 (free) to 10
    8-11  time of the last one, little-endian        5-7, 12-15  left as they are

Whoever touches it holds flock on a descriptor open for writing. Any trouble means: behave as if it were empty; the
table saves time, and no mail depends on it. An IPv6 address has no room here; it is known by a 28-bit digest in
240.0.0.0/4, where no IPv4 host lives, so the original and its tools keep working on the same file.
"""

import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from pyqmail.system.stamp import settled
from pyqmail.system.typed import Self

RECORD = 16
SIZE = 64 * RECORD
COUNT_MAX = 10
BLOCK_COUNT = 2  # a single timeout never blocks
REST_S = 120  # timeouts closer together count as one
AGE_PER_COUNT_S = 1024  # what a count is worth when the oldest record must go


class Verdict(Enum):
    """What the table says of an address before a connection is tried."""

    UNKNOWN = "no record"
    KNOWN = "a record that does not block"
    BLOCKED = "skip the address"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in use: the four address bytes, the count, and the time of the last counted timeout."""

    key: bytes
    count: int
    when: int


def record_key(packed: bytes) -> bytes:
    """The four bytes that stand for ``packed``, an IPv4 or IPv6 address."""
    if len(packed) == 4:
        return packed
    return (zlib.crc32(packed) & 0x0FFFFFFF | 0xF0000000).to_bytes(4, "big")


def block_seconds(pid: int) -> int:
    """How long an address is skipped: about an hour, spread by process id so that not all try again at once."""
    return (60 + (pid & 31)) << 6


def _entry(table: bytes, at: int) -> Entry:
    return Entry(table[at : at + 4], table[at + 4], int.from_bytes(table[at + 8 : at + 12], "little"))


def parse_table(table: bytes) -> Iterator[tuple[int, Entry]]:
    """(offset, record) of each whole record, free ones included."""
    for at in range(0, min(len(table), SIZE) - RECORD + 1, RECORD):
        yield at, _entry(table, at)


def find(table: bytes, key: bytes) -> tuple[int, Entry] | None:
    """The first record of ``key``; only that one is ever examined."""
    end = min(len(table), SIZE) // RECORD * RECORD
    at = table.find(key, 0, end)
    while at >= 0:
        if at % RECORD == 0:
            return at, _entry(table, at)
        at = table.find(key, at + 1, end)
    return None


def judge(table: bytes, key: bytes, *, now: int, pid: int) -> Verdict:
    """What ``table`` says of ``key`` at time ``now``."""
    found = find(table, key)
    if found is None:
        return Verdict.UNKNOWN
    entry = found[1]
    if entry.count >= BLOCK_COUNT and now - entry.when < block_seconds(pid):
        return Verdict.BLOCKED
    return Verdict.KNOWN


def after_timeout(table: bytes, key: bytes, now: int) -> tuple[int, Entry] | None:
    """The record to write, and where, when ``key`` has timed out at ``now``; None to leave the table alone."""
    found = find(table, key)
    if found is not None:
        at, entry = found
        if entry.count and now < entry.when + REST_S:
            return None
        return at, Entry(key, min(entry.count + 1, COUNT_MAX), now)
    records = list(parse_table(table))
    free = next((at for at, entry in records if entry.count == 0), None)
    if free is None:
        if not records:
            return None
        free = min(records, key=lambda record: record[1].when + record[1].count * AGE_PER_COUNT_S)[0]
    return free, Entry(key, 1, now)


class LockedTable:
    """The table at ``path``, locked for as long as the ``with`` block lasts. Raises OSError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self) -> bytes:
        """The table as it is now."""
        return os.pread(self._fd, SIZE, 0)

    def write(self, at: int, entry: Entry) -> None:
        """Replace the address, count and time of the record at offset ``at``."""
        os.pwrite(self._fd, entry.key + bytes((entry.count,)), at)
        os.pwrite(self._fd, (entry.when & 0xFFFFFFFF).to_bytes(4, "little"), at + 8)

    def clear(self) -> None:
        """Forget every timeout. Raises OSError, also when the disk took only a part."""
        if os.pwrite(self._fd, bytes(SIZE), 0) != SIZE:
            raise OSError(28, os.strerror(28))


def check(path: str, packed: bytes) -> Verdict:
    """What the table at ``path`` says of the address ``packed`` now; UNKNOWN when the table cannot be used."""
    try:
        with LockedTable(path) as table:
            data = table.read()
    except OSError:
        return Verdict.UNKNOWN
    return judge(data, record_key(packed), now=int(time.time()), pid=os.getpid())


class Reader:
    """The same checks again and again: the table is read, under its lock, only when its file has changed."""

    def __init__(self) -> None:
        self._stamp: tuple[int, int, int] | None = None
        self._table = b""

    def check(self, path: str, packed: bytes) -> Verdict:
        """As `check`."""
        try:
            found = os.stat(path)
            stamp = found.st_dev, found.st_ino, found.st_mtime_ns
            if stamp != self._stamp:
                self._stamp = None
                with LockedTable(path) as table:
                    self._table = table.read()
                if settled(found.st_mtime_ns, time.time_ns()):  # else it may change again within its stamp
                    self._stamp = stamp
        except OSError:
            return Verdict.UNKNOWN
        return judge(self._table, record_key(packed), now=int(time.time()), pid=os.getpid())


def note_answer(path: str, packed: bytes) -> None:
    """The host answered, if only to refuse: its count falls to 0, the time stays."""
    key = record_key(packed)
    try:
        with LockedTable(path) as table:
            found = find(table.read(), key)
            if found is not None:
                at, entry = found
                table.write(at, Entry(key, 0, entry.when))
    except OSError:
        return  # nothing depends on the table


def note_timeout(path: str, packed: bytes) -> None:
    """The host timed out now: count it."""
    try:
        with LockedTable(path) as table:
            change = after_timeout(table.read(), record_key(packed), int(time.time()))
            if change is not None:
                table.write(*change)
    except OSError:
        return  # nothing depends on the table
