"""The message that qmail-local delivers: an open file, read from its start as often as there are deliveries."""

import os
from collections.abc import Iterator

CHUNK = 65536


class Message:
    """The seekable file ``fd``; its first bytes are kept, so that small mail is read once for all deliveries.

    Where its ``size`` in bytes is known its end needs no look. A read that comes back short says nothing of the end: it
    may be one before an error.
    """

    def __init__(self, fd: int, size: int | None = None) -> None:
        self.fd = fd
        self._size = size
        self._head: bytes | None = None
        self._whole = False

    def chunks(self) -> Iterator[bytes]:
        """The message's bytes from the start, whatever the shared offset is. Raises OSError (ESPIPE on a pipe)."""
        if self._head is None:
            self._head = os.pread(self.fd, CHUNK, 0)
            self._whole = self._ends_at(len(self._head))
        offset = len(self._head)
        if offset:
            yield self._head
        if self._whole:
            return
        while chunk := os.pread(self.fd, CHUNK, offset):
            offset += len(chunk)
            yield chunk

    def _ends_at(self, offset: int) -> bool:
        """Whether that is all, so far as it can be told without reading much."""
        return not offset or (offset < CHUNK and (offset == self._size or not os.pread(self.fd, 1, offset)))

    def rewind(self) -> None:
        """Put the shared offset back to the start, for a program that reads descriptor ``fd``. Raises OSError."""
        os.lseek(self.fd, 0, os.SEEK_SET)
