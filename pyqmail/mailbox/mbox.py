"""Delivery to an mbox: lock, append, sync; cut back to the old end if that fails."""

import errno
import fcntl
import os
from collections.abc import Iterable

from pyqmail.failure import TemporaryFailure
from pyqmail.system import files
from pyqmail.system.alarm import TimeUp, time_limit
from pyqmail.system.errors import reason

LOCK_PATIENCE_S = 30.0
REOPENS = 10  # how often the file may be replaced under us


def deliver(path: bytes, pieces: Iterable[bytes], *, lock_patience_s: float = LOCK_PATIENCE_S) -> None:
    """Append ``pieces`` to ``path``, created if need be; on disk when this returns. Raises TemporaryFailure.

    A FIFO or a device is tried like any file.
    """
    fd, locked = _open_locked(path, lock_patience_s)
    try:
        end = _end(fd)
        try:
            for piece in pieces:
                files.write_all(fd, piece)
            files.sync(fd)
            if end == 0:
                _sync_name(path)
        except OSError as error:
            if locked and end is not None:
                _cut_back(fd, end)
            raise TemporaryFailure(b"Unable to write " + path + b": " + reason(error) + b". (#4.3.0)") from error
    finally:
        os.close(fd)


def _open_locked(path: bytes, patience_s: float) -> tuple[int, bool]:
    """The file to append to, and whether it is locked. Raises TemporaryFailure.

    A program that put a new file in the place of the old one while we waited (maildir2mbox does) has left us a lock on
    what nobody will read.
    """
    for _ in range(REOPENS):
        try:
            fd = files.open_append(path)
        except OSError as error:
            raise TemporaryFailure(b"Unable to open " + path + b": " + reason(error) + b". (#4.2.1)") from error
        try:
            locked = _lock(fd, path, patience_s)
            if not locked or os.fstat(fd).st_nlink:
                return fd, locked
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise TemporaryFailure(b"Unable to lock " + path + b": it is replaced again and again. (#4.3.0)")


def _sync_name(path: bytes) -> None:
    """Sync the name of a file that may be new. A directory that we may not read cannot be synced."""
    try:
        files.sync_directory(os.path.dirname(path) or b".")
    except PermissionError:
        return


def _lock(fd: int, path: bytes, patience_s: float) -> bool:
    """Take the exclusive flock; False where locks do not work, and delivery goes on without."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return False
    try:
        with time_limit(patience_s):
            fcntl.flock(fd, fcntl.LOCK_EX)
        return True
    except TimeUp:
        raise TemporaryFailure(b"Unable to lock " + path + b": somebody else holds it. (#4.3.0)") from None
    except OSError:
        return False


def _end(fd: int) -> int | None:
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError:
        return None  # a FIFO has no end to cut back to


def _cut_back(fd: int, end: int) -> None:
    try:
        files.truncate(fd, end)
    except OSError:
        return  # half a message stays; the retry appends a whole one
