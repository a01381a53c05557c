"""The message of one delivery, on a descriptor."""

import os
import re
import stat
from collections.abc import Callable, Iterator

from pyqmail.failure import TemporaryFailure
from pyqmail.protocol.smtp_transaction import Measure
from pyqmail.system.files import write_all

PIECE = 65536  # bytes of the message in memory at once
_END_OF_HEADER = re.compile(rb"\n\r?\n")
_TLS_NOT_REQUIRED = re.compile(rb"^tls-required[ \t]*:[ \t]*no[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
NO_MESSAGE = b"Unable to read message. (#4.3.0)"


class Message:
    """The rest of the file on ``fd``. What was read to measure it is not read again."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._head: bytes | None = None  # the first piece, while it was only measured
        self._taken = 0  # bytes of the file that were read
        self._measured: Measure | None = None
        self.above = b""  # fields that go before it: signatures
        self.unsigned = b""  # why there are none although there are keys
        self._copy: object = None  # keeps the file open that stands in for a pipe

    def prepend(self, make: Callable[[Iterator[bytes]], bytes]) -> None:
        """Put before the message what ``make`` makes of it, fields with LF line ends.

        The message is read for that and then once more; one that comes through a pipe is kept in a file without a name.
        Raises TemporaryFailure, and what ``make`` raises.
        """
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                self._fd = self._copied()
            start = os.lseek(self._fd, 0, os.SEEK_CUR)
            self.above = make(self.pieces())
            os.lseek(self._fd, start, os.SEEK_SET)
            self._taken = 0
        except OSError as error:
            raise TemporaryFailure(NO_MESSAGE) from error

    def _copied(self) -> int:
        import tempfile  # heavy, and only behind a filter

        copy = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._copy, fd = copy, copy.fileno()
        for piece in self.pieces():
            write_all(fd, piece)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def measure(self) -> Measure:
        """How much there is for the receiver, before any of it is sent. Raises TemporaryFailure."""
        if self._measured is None:
            head = self._beginning()
            try:
                self._measured = self._measure(head)
            except OSError as error:
                raise TemporaryFailure(NO_MESSAGE) from error
        return self._measured

    def _measure(self, head: bytes) -> Measure:
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            return Measure(None, True)  # a pipe: the rest is anybody's guess
        gained, eight_bit, returns = _bare_line_feeds(head), not head.isascii(), b"\r" in head
        at = size = len(head)
        last = head
        if len(head) == PIECE:
            at = os.lseek(self._fd, 0, os.SEEK_CUR)
            size += max(0, found.st_size - at)
            while data := os.pread(self._fd, PIECE, at):
                at += len(data)
                gained += _bare_line_feeds(data)
                eight_bit = eight_bit or not data.isascii()
                returns = returns or b"\r" in data
                last = data
        gained += len(self.above) + self.above.count(b"\n")
        lines = _header_ends(head) and last.endswith(b"\n") and not returns
        return Measure(size + gained, eight_bit, lines=lines)

    def rewind(self) -> None:
        """Begin again with a file whose lines were measured. Raises TemporaryFailure."""
        try:
            os.lseek(self._fd, -self._taken, os.SEEK_CUR)
        except OSError as error:
            raise TemporaryFailure(NO_MESSAGE) from error
        self._taken, self._head = 0, None

    def waives_policies(self) -> bool:
        """Whether its header says that no published policy about TLS shall hold it up (RFC 8689 section 5).

        Raises TemporaryFailure.
        """
        header = _END_OF_HEADER.split(self._beginning(), 1)[0]
        return _TLS_NOT_REQUIRED.search(header) is not None

    def header_is_ascii(self) -> bool:
        """Whether its header, as far as it is in the first piece, has no byte above 127. Raises TemporaryFailure."""
        return _END_OF_HEADER.split(self._beginning(), 1)[0].isascii()

    def _beginning(self) -> bytes:
        """The first piece, which is read only once. Raises TemporaryFailure."""
        if self._head is None:
            self._head = self._read()
        return self._head

    def pieces(self) -> Iterator[bytes]:
        """The message, once. Raises TemporaryFailure."""
        data, self._head = self._head, None
        if data is None:
            data = self._read()
        data = self.above + data
        while data:
            yield data
            data = self._read()

    def _read(self) -> bytes:
        try:
            data = os.read(self._fd, PIECE)
        except OSError as error:
            raise TemporaryFailure(NO_MESSAGE) from error
        self._taken += len(data)
        return data


def _header_ends(head: bytes) -> bool:
    """Whether an empty line ends the header in ``head``, the first piece: not all servers answer a chunk without."""
    return head.startswith(b"\n") or b"\n\n" in head


def _bare_line_feeds(data: bytes) -> int:
    """How many bytes the line ends of ``data`` will gain, but for single CRs."""
    return data.count(b"\n") - (data.count(b"\r\n") if b"\r" in data else 0)
