"""Where a message waits for its verdict: in memory while it is small, then in an unnamed file in run/incoming.

All sessions together hold at most control/incomingmax bytes on the disk. Who holds a mebibyte has a lock on one byte of
run/incoming/room, which the kernel takes back from whoever dies, so that the count is right after any crash.
"""

import fcntl
import os
import struct
from collections.abc import Iterator

from pyqmail.control import Control

MEMORY_MAX = 262144  # bytes that a session may hold in a memfd
SLOT = 1048576  # bytes on the disk for each lock
INCOMINGMAX = 1073741824  # control/incomingmax, where there is none
CHUNK = 65536


class NoRoom(Exception):
    """No file, no disk, or too many messages that wait."""


class Holding:
    """The text of one message. ``fd`` is open for reading and writing, at its end."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._slots: list[int] = []
        self._room = -1
        self.size = 0
        self.fd = os.memfd_create("pyqmail-incoming", os.MFD_CLOEXEC)

    def write(self, text: bytes) -> None:
        """Add to it. Raises NoRoom."""
        try:
            if self.size <= MEMORY_MAX < self.size + len(text):
                self._move_to_disk()
            if self.size + len(text) > MEMORY_MAX:
                self._reserve(self.size + len(text))
            view = memoryview(text)
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError as error:
            raise NoRoom from error
        self.size += len(text)

    def pieces(self) -> Iterator[bytes]:
        """All of it, from the beginning. Raises OSError."""
        at = 0
        while piece := os.pread(self.fd, CHUNK, at):
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Forget it; harmless again."""
        for fd in (self.fd, self._room):
            if fd >= 0:
                os.close(fd)
        self.fd = self._room = -1

    def _move_to_disk(self) -> None:
        unnamed = os.open(self._home + "/run/incoming", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            self._room = os.open(
                self._home + "/run/incoming/room", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            for piece in self.pieces():
                os.write(unnamed, piece)
        except OSError:
            os.close(unnamed)
            raise
        os.close(self.fd)
        self.fd = unnamed

    def _reserve(self, size: int) -> None:
        """Have a slot for each mebibyte of ``size``. Raises NoRoom."""
        if len(self._slots) * SLOT >= size:
            return
        limit = Control(self._home).integer("incomingmax", INCOMINGMAX) // SLOT
        start = os.getpid()
        for step in range(limit):
            slot = (start + step) % limit
            if slot not in self._slots and _lock(self._room, slot):
                self._slots.append(slot)
                if len(self._slots) * SLOT >= size:
                    return
        raise NoRoom


def _lock(fd: int, byte: int) -> bool:
    """Take the lock on one byte for as long as ``fd`` is open; false if another session has it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True
