"""A message in a file without a name, for programs in the place of qmail-queue: it is whole before anything is done."""

import os
from collections.abc import Iterable, Iterator

from pyqmail.system.files import CHUNK, write_all


def open_unnamed() -> int:
    """A new file for reading and writing, on the disk if that can be. Raises OSError."""
    try:
        return os.open("/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.memfd_create("message")


def store(source: Iterable[bytes]) -> int:
    """All of ``source`` in such a file. Raises OSError."""
    fd = open_unnamed()
    for data in source:
        write_all(fd, data)
    return fd


def rest_of(fd: int) -> Iterator[bytes]:
    """What can still be read from ``fd``. Raises OSError."""
    while data := os.read(fd, CHUNK):
        yield data


def pieces(fd: int) -> Iterator[bytes]:
    """What the file has, from its beginning. Raises OSError."""
    at = 0
    while data := os.pread(fd, CHUNK, at):
        at += len(data)
        yield data
