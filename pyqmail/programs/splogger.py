"""splogger: lines on fd 0 become syslog entries (splogger(8))."""

import os
import syslog
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

CHUNK = 799  # what fits one syslog message
MAIL_FACILITY = 2
_PRINTABLE = bytes(byte if 32 <= byte <= 126 else ord("?") for byte in range(256))


def priority_of(line: bytes) -> int:
    """The syslog priority of a log line."""
    if line.startswith(b"alert:"):
        return syslog.LOG_ALERT
    return syslog.LOG_WARNING if line.startswith(b"warning:") else syslog.LOG_INFO


def entries(line: bytes, now: float) -> Iterator[tuple[int, bytes]]:
    """Priority and text of each syslog entry for one ``line``; an empty line has none."""
    priority = priority_of(line)
    stamp = b"%d.%06d" % (int(now), int(now * 1_000_000) % 1_000_000)
    text = line.translate(_PRINTABLE)
    for start in range(0, len(text), CHUNK):
        yield priority, stamp + (b"+" if start else b" ") + text[start : start + CHUNK]


def copy_log(fd: int, emit: Callable[[int, bytes], None]) -> None:
    """Pass every whole line of ``fd`` on; an unterminated last one is dropped."""
    rest = b""
    while data := os.read(fd, 65536):
        *lines, rest = (rest + data).split(b"\n")
        now = time.time()
        for line in lines:
            for priority, text in entries(line, now):
                emit(priority, text)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Run splogger; 0 at the end of input."""
    tag = argv[1] if len(argv) > 1 else b"splogger"
    digits = argv[2] if len(argv) > 2 else b""
    facility = int(digits) if digits.isdigit() else MAIL_FACILITY
    syslog.openlog(os.fsdecode(tag), 0, facility << 3)
    copy_log(0, lambda priority, text: syslog.syslog(priority, text.decode("ascii")))
    return 0
