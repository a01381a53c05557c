"""A channel's recipient file: reading the recipients not done, and marking them done; and the sender in info/N."""

import errno
import os
from collections import deque
from collections.abc import Iterable

from pyqmail.formats.todo import RecipientParser
from pyqmail.system import files

_CHUNK = 8192  # recipients stay on disk; this much of a list is in memory
DONE = b"D"


class UnknownMark(Exception):
    """A record that is neither T nor D: somebody else has written here."""


class Pause:
    """Some recipients are read and all of them are done: whoever serves others, too, may do that now."""


PAUSE = Pause()


class RecipientFile:
    """One pass over local/S/N or remote/S/N."""

    def __init__(self, path: str) -> None:
        """Open ``path``. Raises OSError."""
        self._fd = files.open_read(path)
        self._parser = RecipientParser()
        self._ready: deque[tuple[int, bytes, bytes]] = deque()

    def next_not_done(self) -> tuple[int, bytes] | None:
        """Offset and address of the next recipient not done; None at the end. Raises OSError, UnknownMark."""
        while isinstance(found := self.read_on(), Pause):
            pass
        return found

    def read_on(self) -> tuple[int, bytes] | Pause | None:
        """The same, after one read at most: PAUSE when that found only recipients that are done.

        A last record that does not end is EIO: the file was cut, and to take it for done would lose a recipient.
        """
        if not self._ready:
            data = os.read(self._fd, _CHUNK)
            if not data:
                if self._parser.incomplete:
                    raise OSError(errno.EIO, "the last record does not end")
                return None
            self._ready.extend(self._parser.feed(data))
        while self._ready:
            offset, mark, address = self._ready.popleft()
            if mark == b"T":
                return offset, address
            if mark != DONE:
                raise UnknownMark
        return PAUSE

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


def recipients_at(path: str, offsets: Iterable[int]) -> dict[int, bytes]:
    """The recipients whose records begin at ``offsets``, without what is done or no recipient. Raises OSError."""
    fd = files.open_read(path)
    try:
        found = {offset: _record_at(fd, offset) for offset in offsets}
    finally:
        os.close(fd)
    return {offset: data[1:] for offset, data in found.items() if data.startswith(b"T")}


def _record_at(fd: int, offset: int) -> bytes:
    """The record that begins at ``offset``, without its NUL; empty where none ends."""
    data = b""
    while b"\0" not in data:
        chunk = os.pread(fd, 1024, offset + len(data))
        if not chunk:
            return b""
        data += chunk
    return data[: data.index(b"\0")]


def read_info(path: str) -> tuple[bytes, int]:
    """Sender and birth of a message. Raises OSError, also for a file that holds no whole sender record."""
    fd = files.open_read(path)
    try:
        data = b""
        while b"\0" not in data and (chunk := os.read(fd, 4096)):
            data += chunk
        birth = int(os.fstat(fd).st_mtime)
    finally:
        os.close(fd)
    if data[:1] != b"F" or b"\0" not in data:
        raise OSError(errno.EIO, "no sender in info file")
    return data[1 : data.index(b"\0")], birth


def mark_done(path: str, offsets: Iterable[int]) -> None:
    """The recipients at ``offsets`` are done. Raises OSError; some of them may be marked then."""
    files.overwrite_bytes(path, offsets, DONE)
