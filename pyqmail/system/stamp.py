"""What tells whether a file is still the one that was looked at before."""

import os
import time
from _operator import attrgetter
from collections.abc import Callable, Iterable

from pyqmail.system.typed import Generic, TypeVar

T = TypeVar("T")

Stamp = tuple[int, int, int, int, int]  # device, inode, size, mtime and ctime in nanoseconds
SETTLED_NS = 100_000_000  # a file changed less than this ago may change again within one tick of its time stamp
COARSE_NS = 2_100_000_000  # the same where the filesystem counts whole seconds


# The stamp in the answer of a stat: in C, since a session makes six of them.
stamp_of: Callable[[os.stat_result], Stamp] = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")


def stamp(path: str | bytes) -> Stamp | None:
    """The stamp of the file at ``path``; None when there is none, or none that we may see."""
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None


class Glance:
    """Files as they are now; between ``begin`` and ``end`` each is looked at once.

    For what was asked for together before ``begin``: nobody can tell which of it came before a change.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Stamp | OSError] | None = None

    def begin(self) -> None:
        """What is seen from now on holds until ``end``."""
        self._seen = {}

    def end(self) -> None:
        """Each look is a new one."""
        self._seen = None

    def stat(self, path: str) -> Stamp:
        """The stamp of the file at ``path``. Raises OSError."""
        found = None if self._seen is None else self._seen.get(path)
        if found is None:
            try:
                found = stamp_of(os.stat(path))
            except OSError as error:
                found = error
            if self._seen is not None:
                self._seen[path] = found
        if isinstance(found, OSError):
            raise OSError(found.errno, found.strerror, path)
        return found

    def stamp(self, path: str) -> Stamp | None:
        """The stamp of the file at ``path``; None when there is none, or none that we may see."""
        try:
            return self.stat(path)
        except OSError:
            return None


def settled(changed_ns: int, now_ns: int) -> bool:
    """Whether the time stamp ``changed_ns`` of a file stands for one state of it only."""
    return now_ns - changed_ns > (SETTLED_NS if changed_ns % 1_000_000_000 else COARSE_NS)


class Seen:
    """Files as they were when they were looked at."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._stamps = {path: stamp(path) for path in paths}

    def look(self, path: str) -> bool:
        """Look at one more; whether it is there."""
        self._stamps[path] = stamp(path)
        return self._stamps[path] is not None

    def look_once(self, path: str) -> None:
        """Look at one more, unless that has been done."""
        if path not in self._stamps:
            self.look(path)

    def unchanged(self) -> bool:
        """Whether each is the one that it was, or still missing."""
        return list(map(stamp, self._stamps)) == list(self._stamps.values())

    def settled(self) -> bool:
        """Whether a change after the look would be seen by ``unchanged``: none had only just changed."""
        now = time.time_ns()
        return all(seen is None or settled(max(seen[3:]), now) for seen in self._stamps.values())


def always(_value: object) -> bool:
    """Any value lasts."""
    return True


class Watched(Generic[T]):
    """What ``make(home)`` makes of files, made again as soon as a stat shows that one has changed."""

    def __init__(
        self, make: Callable[[str], T], look: Callable[[str], Seen], *, lasts: Callable[[T], bool] = always
    ) -> None:
        """``look(home)`` looks at the files, before they are read; what ``lasts`` says no to is made anew each time."""
        self._make = make
        self._look = look
        self._lasts = lasts
        self._known: tuple[str, Seen, T] | None = None

    def get(self, home: str) -> T:
        """The value as of now. Raises whatever ``make`` raises, and remembers nothing then."""
        known = self._known
        if known is not None and known[0] == home and known[1].unchanged():
            return known[2]
        self._known = None
        seen = self._look(home)
        value = self._make(home)
        if self._lasts(value) and seen.settled():
            self._known = home, seen, value
        return value
