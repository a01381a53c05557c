"""One path of the tree as it should be, whoever owns the directories on the way to it (qmail-setup(8)).

queue/, run/ and what is in them belong to qmailq and qmails. Root makes and gives away there by descriptors only: below
a directory that is not root's no symbolic link is followed, a file with a second name is refused, and what is already
there is touched only if it belongs to root, to its future owner or to the directory's.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyqmail.admin.target import SetupError
from pyqmail.admin.tree import TCPTO_BYTES, Entry, Kind

KINDS = {Kind.DIRECTORY: stat.S_ISDIR, Kind.FILE: stat.S_ISREG, Kind.FIFO: stat.S_ISFIFO}
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@contextmanager
def opened_parent(root: Path, place: str) -> Iterator[tuple[int, str]]:
    """The directory that ``place`` below ``root`` lies in, and its name there ("." for the root). Raises OSError."""
    *folders, name = place.split("/")
    fd = os.open(root, DIRECTORY)
    try:
        for folder in folders:
            below = os.open(folder, DIRECTORY | _no_follow(fd), dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, name or "."
    finally:
        os.close(fd)


def _no_follow(folder: int) -> int:
    """The flag with which names in ``folder`` are opened: links are followed where only root could put them."""
    status = os.fstat(folder)
    trusted = status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022
    return 0 if trusted else os.O_NOFOLLOW


def make(parent: int, name: str, kind: Kind) -> None:
    """Make what is not there yet, for its maker alone; what is there stays. Raises OSError."""
    try:
        if kind is Kind.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=parent)
        elif kind is Kind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent))
    except FileExistsError:
        pass


def settle(parent: int, name: str, entry: Entry, ids: tuple[int, int] | None) -> None:
    """Give what is there its owner and mode; ``ids`` None: it keeps its owner. Raises SetupError and OSError."""
    try:
        fd = os.open(name, LOOK | (os.O_DIRECTORY if entry.kind is Kind.DIRECTORY else 0), dir_fd=parent)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SetupError(f"{entry.path} is in the way: not a {entry.kind.value}") from error
    try:
        status = os.fstat(fd)
        if not KINDS[entry.kind](status.st_mode):
            raise SetupError(f"{entry.path} is in the way: not a {entry.kind.value}")
        if ids is not None and (status.st_uid, status.st_gid) != ids:
            _refuse_others(status, entry, (0, os.geteuid(), ids[0], os.fstat(parent).st_uid))
            os.fchown(fd, *ids)
        if stat.S_IMODE(os.fstat(fd).st_mode) != entry.mode:
            os.fchmod(fd, entry.mode)
    finally:
        os.close(fd)


def _refuse_others(status: os.stat_result, entry: Entry, owners: tuple[int, ...]) -> None:
    if entry.kind is not Kind.DIRECTORY and status.st_nlink != 1:
        raise SetupError(f"{entry.path} is in the way: it has another name elsewhere")
    if status.st_uid not in owners:
        raise SetupError(f"{entry.path} is in the way: it belongs to uid {status.st_uid}")


def fill_table(root: Path, place: str) -> None:
    """Let the empty or damaged tcpto at ``place`` have its size. Raises OSError and SetupError."""
    with opened_parent(root, place) as (parent, name):
        fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise SetupError(f"{place} is in the way: not a file of its own")
            if status.st_size != TCPTO_BYTES:
                os.ftruncate(fd, 0)
                os.pwrite(fd, bytes(TCPTO_BYTES), 0)
        finally:
            os.close(fd)
