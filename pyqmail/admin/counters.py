"""What qmail-stated has counted, beside what control/relaylimits allows (qmail-limits(8)).

The names of counters are made safe for a log; who asks for one writes it as it is shown.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyqmail.control import Control
from pyqmail.policy.relay_limits import RelayLimits
from pyqmail.protocol.state import OK, RECORD_MAX, RESET, SHOW, SOCKET, format_record, parse_record
from pyqmail.system import files

ANSWER_S = 30.0  # for a million lines


class NoAnswer(Exception):
    """qmail-stated says nothing: it does not run, or this is not root."""


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter; ``refused`` are those that came when it was full."""

    key: bytes
    kind: bytes
    seconds: int
    count: int
    refused: int


def parse_counters(data: bytes) -> Iterator[Counter]:
    """The counters in what qmail-stated shows."""
    for line in data.splitlines():
        kind, seconds, count, refused, key = line.split(b" ", 4)
        yield Counter(key, kind, int(seconds), int(count), int(refused))


def read_counters(home: str) -> list[Counter]:
    """All counters, by key. Raises NoAnswer and OSError."""
    with ask(home, SHOW) as sock:
        record, fds, _, _ = socket.recv_fds(sock, RECORD_MAX, 1)
        try:
            if parse_record(record) != [OK] or not fds:
                raise NoAnswer
            os.lseek(fds[0], 0, os.SEEK_SET)
            data = files.read_all(fds[0])
        finally:
            for fd in fds:
                os.close(fd)
    return sorted(parse_counters(data), key=lambda counter: (counter.key, counter.kind, counter.seconds))


def reset(home: str, key: bytes) -> int:
    """Forget the counters of ``key``; how many there were. Raises NoAnswer and OSError."""
    with ask(home, RESET, key) as sock:
        word, *rest = parse_record(sock.recv(RECORD_MAX)) or [b""]
    if word != OK or not rest:
        raise NoAnswer
    return int(rest[0])


def ask(home: str, *words: bytes) -> socket.socket:
    """A connection on which the question was put. Raises NoAnswer and OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(ANSWER_S)
        sock.connect(home + SOCKET)
        sock.send(format_record(*words))
    except (FileNotFoundError, ConnectionError):
        sock.close()
        raise NoAnswer from None
    return sock


def rows(counters: Iterable[Counter], limits: RelayLimits) -> Iterator[bytes]:
    """A line for each counter: who, how many of how many, of what, in which time, and how many were refused."""
    for counter in counters:
        most = most_of(limits, counter)
        refused = b", %d refused" % counter.refused if counter.refused else b""
        allowed = b"of %d " % most if most else b""
        yield b"%b %d %b%b in %d s%b" % (counter.key, counter.count, allowed, counter.kind, counter.seconds, refused)


def most_of(limits: RelayLimits, counter: Counter) -> int:
    """What the file allows today; 0 where it has no such limit any more."""
    line = limits.of_user(counter.key)  # who is known by an address or a network has a line or counts as all others
    for limit in line.limits if line else ():
        if (limit.kind, limit.seconds) == (counter.kind, counter.seconds):
            return limit.most
    return 0


def read_limits(home: str) -> RelayLimits:
    """control/relaylimits. Raises ControlUnreadable."""
    return RelayLimits(Control(home).read("relaylimits") or b"")
