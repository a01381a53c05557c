"""How much may be in a Maildir, as Courier and Dovecot count it (Maildir++).

    maildirsize    10000000S,5000C      bytes and messages that may be there
                   8120345 2311         what is there: the sum of these lines,
                   4711 1               one for each delivery since

Where the lines say that there is no room they are made anew from what is there, unless that has just been done. Names
of messages say their size (``,S=4711``), so that this needs no look at each. Mail in .Trash, and what is marked as
deleted, does not count.
"""

import os
import re
import time
from dataclasses import dataclass

from pyqmail.control import Control
from pyqmail.failure import PermanentFailure
from pyqmail.system import files

FILE = b"maildirsize"
FILE_MAX = 5120  # bytes: a longer one is made anew
FRESH_S = 900  # for which a count stands that says that there is no room
ENTRIES_MAX = 10_000_000  # names that are looked at
_SIZE_IN_NAME = re.compile(rb",S=(\d{1,18})")
_PART = re.compile(rb"(\d{1,18})([SC]?)")
FULL = b"The mailbox is full. (#5.2.2)"


@dataclass(frozen=True, slots=True)
class Limit:
    """Bytes and messages that may be there; 0 for any number."""

    size: int = 0
    count: int = 0

    def allows(self, size: int, count: int) -> bool:
        """Whether so many bytes in so many messages may be there."""
        return not (self.size and size > self.size) and not (self.count and count > self.count)

    def format(self) -> bytes:
        """The first line of maildirsize."""
        return b",".join(b"%d%b" % part for part in ((self.size, b"S"), (self.count, b"C")) if part[0])


def parse_limit(text: bytes) -> Limit | None:
    """The limit in ``10000000S,5000C``, in bytes and messages; None for anything else."""
    found = {b"S": 0, b"C": 0}
    for part in text.strip().split(b","):
        match = _PART.fullmatch(part)
        if match is None:
            return None
        found[match[2] or b"S"] = int(match[1])
    return Limit(found[b"S"], found[b"C"])


def read_limit(control: Control) -> Limit | None:
    """That of Maildirs without one of their own, by control/maildirquota; None where nothing is counted.

    Raises ControlUnreadable.
    """
    text = control.line("maildirquota")
    return None if text is None else parse_limit(text) or Limit()


class MaildirQuota:
    """The count of one Maildir, whose path ends with ``/``."""

    def __init__(self, directory: bytes, usual: Limit) -> None:
        self._directory = directory
        self._path = directory + FILE
        self._usual = usual

    def make_room(self, size: int) -> None:
        """See that a message of ``size`` bytes may come. Raises PermanentFailure where it may not, and OSError."""
        limit, total, count, fresh = self._read()
        if limit.allows(total + size, count + 1):
            return
        if not fresh:
            total, count = self._count_anew(limit)
        if not limit.allows(total + size, count + 1):
            raise PermanentFailure(FULL)

    def add(self, size: int) -> None:
        """A message of ``size`` bytes is there now. What cannot be written is found when it is counted anew."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            os.write(fd, b"%d 1\n" % size)
        except OSError:
            return
        finally:
            os.close(fd)

    def set_limit(self) -> None:
        """Let the usual limit be this Maildir's own, whatever its file has said. Raises OSError."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            first = b""
        else:
            with os.fdopen(fd, "rb") as file:
                first = file.readline(FILE_MAX)
        if parse_limit(first) != self._usual:
            self._count_anew(self._usual)

    def _read(self) -> tuple[Limit, int, int, bool]:
        """The limit, what is there, and whether that has just been counted. Raises OSError."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            if not (self._usual.size or self._usual.count):
                return Limit(), 0, 0, True
            return self._usual, *self._count_anew(self._usual), True
        try:
            age_s = time.time() - os.fstat(fd).st_mtime
            data = os.read(fd, FILE_MAX + 1)
        finally:
            os.close(fd)
        first, *lines = data.split(b"\n")
        limit = parse_limit(first)
        if limit is None:
            limit = self._usual
        sums = None if len(data) > FILE_MAX else _sums(lines)
        if sums is None:
            return limit, *self._count_anew(limit), True
        return limit, *sums, len(lines) <= 2 and age_s < FRESH_S

    def _count_anew(self, limit: Limit) -> tuple[int, int]:
        """Count what is there and write it down. Raises OSError."""
        total, count = 0, 0
        for folder in self._folders():
            for name, path in _messages(folder):
                found = _SIZE_IN_NAME.search(name)
                try:
                    total += int(found[1]) if found else os.stat(path).st_size
                except FileNotFoundError:
                    continue  # it was read or removed meanwhile
                count += 1
        new = b"%btmp/%b.%d.%d" % (self._directory, FILE, os.getpid(), time.monotonic_ns())
        fd = files.create_exclusive(new, 0o600)
        try:
            files.write_all(fd, b"%b\n%d %d\n" % (limit.format(), total, count))
        finally:
            os.close(fd)
        files.rename(new, self._path)
        return total, count

    def _folders(self) -> list[bytes]:
        names = sorted(os.listdir(self._directory))
        folders = [name + b"/" for name in names if name[:1] == b"." and name not in (b".", b"..", b".Trash")]
        return [self._directory, *(self._directory + name for name in folders)]


def _sums(lines: list[bytes]) -> tuple[int, int] | None:
    total, count = 0, 0
    try:
        for line in lines:
            if line.strip():
                size, messages = line.split()
                total, count = total + int(size), count + int(messages)
    except ValueError:
        return None
    return (total, count) if total >= 0 and count >= 0 else None


def _messages(folder: bytes) -> list[tuple[bytes, bytes]]:
    """Names and paths of what counts in a folder."""
    found = []
    for part in (b"new/", b"cur/"):
        try:
            names = os.listdir(folder + part)
        except (FileNotFoundError, NotADirectoryError):
            continue
        found += [(name, folder + part + name) for name in names if name[:1] != b"." and not _deleted(name)]
    return found[:ENTRIES_MAX]


def _deleted(name: bytes) -> bool:
    return b"T" in name.partition(b":2,")[2]
