"""What small files held when they were read, for a process that reads them again for each of many jobs."""

import os
import time
from collections.abc import Callable

from pyqmail.system.stamp import Stamp, settled, stamp, stamp_of
from pyqmail.system.typed import TypeVar

Made = TypeVar("Made")


class FileCache:
    """The contents of the files of one directory, what was made of them, and all names that are there.

    A file is read again whenever its stamp (device, inode, size, mtime, ctime) is another one. One that has only just
    changed is never kept, because a second change might leave the same stamp. The names are known while the stamp of
    the directory stays: what nobody has switched on costs nothing.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[Stamp, bytes]] = {}
        self._made: dict[tuple[str, object], tuple[bytes, object]] = {}  # by path and maker
        self._directory: Stamp | None = None  # the stamp under which the names are
        self._names: frozenset[str] | None = None

    def names(self, directory: str) -> frozenset[str] | None:
        """All that is in ``directory`` now; None where nobody may look."""
        now = stamp(directory)
        if now is not None and now == self._directory:
            return self._names
        try:
            found = frozenset(os.listdir(directory))
        except OSError:
            return None
        if now is not None and settled(max(now[3:]), time.time_ns()):
            self._directory, self._names = now, found
        return found

    def get(self, path: str) -> bytes | None:
        """What ``path`` holds, if that is known. Raises OSError (FileNotFoundError when there is no such file)."""
        now = stamp_of(os.stat(path))
        known = self._files.get(path)
        return known[1] if known is not None and known[0] == now else None

    def put(self, path: str, fd: int, data: bytes) -> None:
        """Keep ``data``, which was read from ``fd``, the file at ``path``."""
        found = os.fstat(fd)
        changed_ns = max(found.st_mtime_ns, found.st_ctime_ns)
        if settled(changed_ns, time.time_ns()) and len(data) == found.st_size:
            self._files[path] = (stamp_of(found), data)

    def made(self, path: str, data: bytes, make: Callable[[bytes], Made]) -> Made:
        """What ``make`` makes of ``data``, which ``path`` holds: the same as before while that is the same object."""
        known = self._made.get((path, make))
        if known is None or known[0] is not data:
            known = self._made[path, make] = data, make(data)
        return known[1]  # type: ignore[return-value]  # each maker has its own entry
