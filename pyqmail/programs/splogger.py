"""splogger: lines on fd 0 become syslog entries (splogger(8))."""

import os
import syslog
import time
from collections.abc import Callable, Mapping, Sequence

from pyqmail.control import parse_integer
from pyqmail.formats.printable import printable
from pyqmail.system.helper_log import priority_of

CHUNK = 799  # what fits one syslog message
MAIL_FACILITY = 2


class Entries:
    """Cuts a stream into syslog entries; of a line without end no more than one entry is ever in memory."""

    def __init__(self, emit: Callable[[int, bytes], None], now: Callable[[], float] = time.time) -> None:
        self._emit = emit
        self._now = now
        self._text = b""
        self._begun: tuple[int, bytes] | None = None  # priority and stamp of a line that goes on

    def feed(self, data: bytes) -> None:
        """Emit every entry that ``data`` completes; an empty line has none."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            if self._text:
                self._entry(self._text)
            self._text, self._begun = b"", None
        self._add(rest)

    def _add(self, text: bytes) -> None:
        self._text += printable(text)
        while len(self._text) > CHUNK:
            self._entry(self._text[:CHUNK])
            self._text = self._text[CHUNK:]

    def _entry(self, text: bytes) -> None:
        if self._begun is not None:
            priority, stamp = self._begun
            self._emit(priority, stamp + b"+" + text)
            return
        now = self._now()
        priority, stamp = priority_of(text), b"%d.%06d" % (int(now), int(now * 1_000_000) % 1_000_000)
        self._begun = priority, stamp
        self._emit(priority, stamp + b" " + text)


def copy_log(fd: int, emit: Callable[[int, bytes], None]) -> None:
    """Pass the lines of ``fd`` on; the end of an unterminated last one is dropped."""
    entries = Entries(emit)
    while data := os.read(fd, 65536):
        entries.feed(data)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Run splogger; 0 at the end of input."""
    tag = argv[1] if len(argv) > 1 else b"splogger"
    facility = MAIL_FACILITY if len(argv) < 3 else parse_integer(argv[2]) or 0
    syslog.openlog(os.fsdecode(tag), 0, facility << 3)
    copy_log(0, lambda priority, text: syslog.syslog(priority, text.decode("ascii")))
    return 0
