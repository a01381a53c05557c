"""Date and Message-ID for messages of relay clients that have none, as those of printers and scanners (RFC 6409, 8.1).

Only where a rule asks for it: a server that completes what it only passes on would make one message two.
"""

import os
import time

from pyqmail.formats.date822 import format_date, format_stamp
from pyqmail.formats.header import field_name

RULE = b"COMPLETEHEADER"  # the variable of a tcprules rule that asks for it
HEADER_MAX = 65536  # bytes; a longer header stays as it is


class Completion:
    """The beginning of one message, kept until its header has ended."""

    __slots__ = ("_host", "_text")

    def __init__(self, host: bytes) -> None:
        self._host = host
        self._text: bytes | None = b""

    def feed(self, text: bytes) -> bytes:
        """What to pass on: nothing yet while the header goes on, then all so far below the fields that it lacks."""
        if self._text is None:
            return text
        self._text += text
        if self._text.startswith(b"\n") or b"\n\n" in self._text or len(self._text) > HEADER_MAX:
            return self.end()
        return b""

    def end(self) -> bytes:
        """What is left when the message has ended."""
        text, self._text = self._text, None
        if not text or len(text) > HEADER_MAX and b"\n\n" not in text[:HEADER_MAX]:
            return text or b""
        header = b"\n" + text.partition(b"\n\n")[0] if not text.startswith(b"\n") else b""
        names = header.lower()
        if names.find(b"\ndate:") >= 0 and names.find(b"\nmessage-id:") >= 0:
            return text  # as from most; a blank before the colon is seen below
        return self._missing({field_name(line) for line in header.split(b"\n")}) + text

    def _missing(self, names: set[bytes | None]) -> bytes:
        now = time.time_ns()
        seconds = now // 1_000_000_000
        lines = b""
        if b"date" not in names:
            lines += b"Date: " + format_date(seconds) + b"\n"
        if b"message-id" not in names:
            unique = b"%b.%09d.%d.qmail-smtpd" % (format_stamp(seconds), now % 1_000_000_000, os.getpid())
            lines += b"Message-ID: <" + unique + b"@" + self._host + b">\n"
        return lines
