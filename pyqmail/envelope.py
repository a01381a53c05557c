"""The envelope on the wire to qmail-queue: F sender NUL, T recipient NUL for each, and a lone NUL (qmail-queue(8)).

Nobody else writes or reads those bytes.
"""

from pyqmail.exits import QueueExit

ADDRESS_MAX = 1003  # qmail-queue's limit on an address, its NUL included


class EnvelopeError(Exception):
    """Bytes that are no envelope; ``exit_code`` is the qmail-queue exit code for it (11 or 91)."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def format_envelope(sender: bytes, recipients: "list[bytes] | tuple[bytes, ...]") -> bytes:
    """The envelope bytes for fd 1 of qmail-queue."""
    if not recipients:
        return b"F" + sender + b"\0\0"
    return b"F" + sender + b"\0T" + b"\0T".join(recipients) + b"\0\0"


class EnvelopeParser:
    """Reads an envelope in any chunks; its records are those of a todo file, so they are kept as bytes.

    ``feed`` returns the complete F and T records (NUL included) that the new bytes finish and raises EnvelopeError
    as soon as a byte cannot belong to an envelope; after the final lone NUL ``done`` is true and the rest is ignored.
    """

    def __init__(self) -> None:
        self.done = False
        self._started = False
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The complete records in what has come so far, concatenated; raises EnvelopeError."""
        if self.done:
            return b""
        parts = (self._rest + data).split(b"\0")
        self._rest = parts.pop()
        count = 0
        for part in parts:
            if self._started and not part:
                self.done = True
                self._rest = b""
                break
            self._check(part)
            count += 1
        if not self.done and self._rest:
            self._check_start(self._rest)
        return b"".join([part + b"\0" for part in parts[:count]])

    def _check_start(self, record: bytes) -> None:
        if record[:1] != (b"T" if self._started else b"F"):
            raise EnvelopeError(QueueExit.ENVELOPE_FORMAT)
        if len(record) > ADDRESS_MAX:
            raise EnvelopeError(QueueExit.ADDRESS_TOO_LONG)

    def _check(self, record: bytes) -> None:
        self._check_start(record)
        self._started = True
