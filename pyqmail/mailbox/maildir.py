"""Delivery to a Maildir: the file, then its name in new/, then the directory, each on disk before the next.

    step                              what a reader or a power cut sees before it
    write and fsync without a name    nothing
    linkat into new/                  a file without a name, gone with its descriptor
    fsync new/                        the whole message, or none after a power cut: the sender still has it

Where unnamed files are not to be had, the file is written under its classic name in tmp/, which is removed after the
link; a process remembers such filesystems, and its own number and host: this is all between deliveries.
Names: SECONDS.MmicrosecondsPpidQcount.HOST, since one warm process delivers many messages a second.
"""

import errno
import os
import time
from collections.abc import Iterable, Iterator

from pyqmail.failure import TemporaryFailure
from pyqmail.system import files
from pyqmail.system.alarm import TimeUp, time_limit
from pyqmail.system.errors import reason, temporary

TRIES = 20  # names to take before giving up; each differs in its time and count
TIMEOUT_S = 86400  # the original's alarm
HOST_MAX = 64  # the original's gethostname buffer
CHUNK = 65536

_NAMED_ONLY: set[int] = set()  # devices where the classic way has been needed, and has worked
_SELF: list[tuple[int, bytes]] = []  # the process and its host, once they have been asked for


def unique_name(count: int, size: int | None = None) -> bytes:
    """A file name that no other delivery takes: ``count`` tells apart those of one moment. A ``size`` is said in it."""
    now = time.time_ns() // 1000
    if not _SELF:
        os.register_at_fork(after_in_child=_SELF.clear)
        host = os.fsencode(os.uname().nodename)[:HOST_MAX].replace(b"/", b"\\057").replace(b":", b"\\072")
        _SELF.append((os.getpid(), host))
    name = b"%d.M%dP%dQ%d.%s" % (now // 1000000, now % 1000000, _SELF[0][0], count, _SELF[0][1])
    return name if size is None else name + b",S=%d" % size


def deliver(directory: bytes, pieces: Iterable[bytes], *, serial: int = 0, size: int | None = None) -> None:
    """Put the message in ``pieces`` into ``directory`` (which ends with ``/``); durable when this returns.

    ``serial`` tells apart the deliveries of one process; ``size`` is that of all pieces, for the name. Raises
    TemporaryFailure; nothing has appeared in new/ then,
    unless only the sync of new/ itself failed.
    """
    try:
        with time_limit(TIMEOUT_S):
            fd = _open_unnamed(directory)
            if fd is None:
                _deliver_named(directory, pieces, serial * TRIES, size)
            else:
                _deliver_unnamed(fd, directory, pieces, serial * TRIES, size)
            _sync_new(directory)
    except TimeUp:
        raise TemporaryFailure(b"Delivery to " + directory + b" timed out. (#4.3.0)") from None
    except OSError as error:
        raise TemporaryFailure(b"Unable to write " + directory + b": " + reason(error) + b". (#4.3.0)") from error


def _open_unnamed(directory: bytes) -> int | None:
    """A file without a name for ``directory``; None where it has to have one."""
    tmp = directory + b"tmp"
    try:
        if _NAMED_ONLY and os.stat(tmp).st_dev in _NAMED_ONLY:
            return None
        return files.open_unnamed(tmp, 0o600)
    except OSError as error:
        _check_directory(directory)
        if error.errno not in files.UNNAMED_UNSUPPORTED:
            raise
        return None


def _check_directory(directory: bytes) -> None:
    """Tell a Maildir that is not there, or closed to us, from one that is in trouble now."""
    try:
        os.stat(directory + b".")
    except OSError as error:
        if temporary(error):
            raise
        raise TemporaryFailure(
            b"Unable to enter maildir " + directory + b": " + reason(error) + b". (#4.2.1)"
        ) from error


def _deliver_unnamed(fd: int, directory: bytes, pieces: Iterable[bytes], count: int, size: int | None) -> None:
    try:
        for piece in pieces:
            files.write_all(fd, piece)
        files.sync(fd)
        for attempt in range(TRIES):
            try:
                files.link_unnamed(fd, directory + b"new/" + unique_name(count + attempt, size))
                return
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno not in files.UNNAMED_UNSUPPORTED:
                    raise
                break  # linkat has no /proc to go through: the classic way, from the bytes we hold
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        _deliver_named(directory, _contents(fd), count + TRIES, size)
    finally:
        os.close(fd)


def _contents(fd: int) -> Iterator[bytes]:
    offset = 0
    while chunk := os.pread(fd, CHUNK, offset):
        offset += len(chunk)
        yield chunk


def _deliver_named(directory: bytes, pieces: Iterable[bytes], count: int, size: int | None) -> None:
    """The classic way: exclusive create in tmp/, sync, link into new/, unlink from tmp/."""
    fd, name = _create_in_tmp(directory, count, size)
    tmp = directory + b"tmp/" + name
    try:
        try:
            for piece in pieces:
                files.write_all(fd, piece)
            files.sync(fd)
        finally:
            os.close(fd)
        _link_named(tmp, directory + b"new/", name, count + TRIES, size)
        _NAMED_ONLY.add(os.stat(tmp).st_dev)
    finally:
        files.unlink_if_present(tmp)


def _link_named(tmp: bytes, new: bytes, name: bytes, count: int, size: int | None) -> None:
    """Give ``tmp`` its name in ``new``, or another one if that is taken.

    A link over NFS whose answer was lost is asked for again and finds itself: the second name says that it is ours.
    """
    for attempt in range(TRIES):
        try:
            files.link(tmp, new + name)
            return
        except FileExistsError:
            if os.stat(tmp).st_nlink > 1:
                return
            name = unique_name(count + attempt, size)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _create_in_tmp(directory: bytes, count: int, size: int | None) -> tuple[int, bytes]:
    for attempt in range(TRIES):
        name = unique_name(count + attempt, size)
        try:
            return files.create_exclusive(directory + b"tmp/" + name, 0o600), name
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _sync_new(directory: bytes) -> None:
    """Sync the names in new/. A directory that we may write but not read cannot be synced: that is its owner's wish."""
    try:
        files.sync_directory(directory + b"new")
    except PermissionError:
        return
