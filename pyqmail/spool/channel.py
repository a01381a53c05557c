"""A channel's recipient file: reading the recipients not done, and marking them done (queue layout)."""

import os
from collections import deque

from pyqmail.formats.todo import RecipientParser
from pyqmail.system import files

_CHUNK = 8192  # recipients stay on disk; this much of a list is in memory
DONE = b"D"


class UnknownMark(Exception):
    """A record that is neither T nor D: somebody else has written here."""


class RecipientFile:
    """One pass over local/S/N or remote/S/N."""

    def __init__(self, path: str) -> None:
        """Open ``path``. Raises OSError."""
        self._fd = files.open_read(path)
        self._parser = RecipientParser()
        self._ready: deque[tuple[int, bytes, bytes]] = deque()

    def next_not_done(self) -> tuple[int, bytes] | None:
        """Offset and address of the next recipient not done; None at the end. Raises OSError, UnknownMark."""
        while True:
            while self._ready:
                offset, mark, address = self._ready.popleft()
                if mark == b"T":
                    return offset, address
                if mark != DONE:
                    raise UnknownMark
            data = os.read(self._fd, _CHUNK)
            if not data:
                return None
            self._ready.extend(self._parser.feed(data))

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


def mark_done(path: str, offset: int) -> None:
    """The recipient at ``offset`` is done. Raises OSError."""
    files.overwrite_byte(path, offset, DONE)
