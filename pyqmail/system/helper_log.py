"""The log of a helper of qmail-start, which has none of its own: where descriptor 2 is /dev/null it is syslog's.

As syslog(3) writes to /dev/log, but without a wait: a logger that is stopped must not stop whoever serves clients.
"""

import os
import socket
import time

from pyqmail.system.logpipe import LogWriter

SYSLOG = "/dev/log"
MAIL = 2 << 3  # the facility, in a priority
ALERT, WARNING, INFO = 1, 4, 6
LINE_MAX = 1900  # bytes; RFC 3164 allows 1024, and what reads them today 2048 and more


class HelperLog:
    """The lines of the program ``name``."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._writer = None if _is_null(2) else LogWriter(2, name)

    def say(self, text: bytes) -> None:
        """A line, with its name before it; ``alert:`` and ``warning:`` are priorities of syslog's. Never raises."""
        if self._writer is not None:
            self._writer.write(self._name + b": " + text + b"\n")
            return
        stamp = time.strftime("%b %e %H:%M:%S").encode()
        record = b"<%d>%b %b: %b" % (MAIL | priority_of(text), stamp, self._name, text)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(record[:LINE_MAX], SYSLOG)
        except OSError:
            return


def priority_of(line: bytes) -> int:
    """The syslog priority of a log line."""
    if line.startswith(b"alert:"):
        return ALERT
    return WARNING if line.startswith(b"warning:") else INFO


def _is_null(fd: int) -> bool:
    try:
        return os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev
    except OSError:
        return True
