"""What small files held when they were read, for a process that reads them again for each of many jobs."""

import os
import time

from pyqmail.system.stamp import Stamp, settled, stamp, stamp_of


class FileCache:
    """The contents of the files of one directory, and the names that are missing there.

    A file is read again whenever its stamp (device, inode, size, mtime, ctime) is another one. One that has only just
    changed is never kept, because a second change might leave the same stamp. That a file is missing is known while the
    stamp of its directory stays: what nobody has switched on costs nothing.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[Stamp, bytes]] = {}
        self._missing: set[str] = set()
        self._directory: Stamp | None = None  # the stamp under which they are
        self._names: frozenset[str] | None = None  # all that is there, under that stamp

    @staticmethod
    def stamp(directory: str) -> Stamp | None:
        """The stamp of ``directory`` now; None when there is none."""
        return stamp(directory)

    def missing(self, path: str, directory: Stamp | None) -> bool:
        """Whether there is no ``path`` in a directory whose stamp is ``directory`` now."""
        self._begin_anew(directory)
        return directory is not None and path in self._missing

    def names(self, directory: Stamp | None) -> frozenset[str] | None:
        """All that is in a directory whose stamp is ``directory`` now, if that is known."""
        self._begin_anew(directory)
        return self._names

    def note_names(self, names: frozenset[str], directory: Stamp | None) -> None:
        """What was in it after the directory's stamp had been ``directory``."""
        if directory is not None and settled(max(directory[3:]), time.time_ns()):
            self._names = names

    def _begin_anew(self, directory: Stamp | None) -> None:
        if directory != self._directory:
            self._directory = directory
            self._missing.clear()
            self._names = None

    def note_missing(self, path: str, directory: Stamp | None) -> None:
        """There was no ``path`` after the directory's stamp had been ``directory``."""
        if directory is None or os.path.islink(path):  # what a link leads to may come without a change here
            return
        if settled(max(directory[3:]), time.time_ns()):
            self._missing.add(path)

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
