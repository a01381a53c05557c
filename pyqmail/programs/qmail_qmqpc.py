"""qmail-qmqpc: hands a message to the first QMQP server that can be reached, in place of qmail-queue (qmail-qmqpc(8)).

Message on descriptor 0, envelope on 1, and the answer is the exit code, as with qmail-queue. Light: it starts cold for
each message of a mini-qmail client.
"""

import _socket
import os

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.exits import QueueExit
from pyqmail.protocol.qmqp_client import PORT, EnvelopeBroken, first_letter, frame, parse_envelope, parse_ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONNECT_S = 10.0
WAIT_S = 60.0  # for each read and write once connected
BUFFER = 65536
EXITS = {b"K": QueueExit.DONE, b"Z": QueueExit.NEXT_HOP_TEMPORARY, b"D": QueueExit.REFUSED}


def slurp(fd: int) -> bytes:
    """Everything from ``fd``. Raises OSError and MemoryError."""
    pieces = []
    while piece := os.read(fd, BUFFER):
        pieces.append(piece)
    return b"".join(pieces)


def address_of(line: bytes) -> "tuple[int, str] | None":
    """Family and address of a line of control/qmqpservers; None for a line that is to be skipped."""
    ipv4 = parse_ipv4(line)
    if ipv4 is not None:
        return _socket.AF_INET, ipv4
    try:
        ipv6 = line.strip(b"[]").decode("ascii")
        _socket.inet_pton(_socket.AF_INET6, ipv6)
    except (OSError, ValueError):
        return None
    return _socket.AF_INET6, ipv6


def send(sock: "_socket.socket", pieces: "Sequence[bytes]") -> None:
    """Write all of ``pieces``; the time limit is for each write. Raises OSError."""
    for piece in pieces:
        left = memoryview(piece)
        while left:
            left = left[sock.send(left, _socket.MSG_NOSIGNAL) :]


def deliver(family: int, address: str, pieces: "Sequence[bytes]") -> tuple[int, bool]:
    """The exit code of an attempt at one server, and whether it is the last word."""
    try:
        sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    except OSError:
        return QueueExit.NETWORK, True
    sock.settimeout(CONNECT_S)
    try:
        sock.connect((address, PORT))
    except TimeoutError:
        return QueueExit.CONNECT_TIMEOUT, False
    except OSError:
        return QueueExit.CONNECT_REFUSED, False
    sock.settimeout(WAIT_S)
    try:
        send(sock, pieces)
        while answer := sock.recv(BUFFER):
            letter = first_letter(answer)
            if letter:
                return EXITS[letter], True
    except OSError:
        pass
    return QueueExit.CONNECTION_BROKE, True


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Send the message; the exit codes are qmail-queue's."""
    home = home_of(environ)
    try:
        os.chdir(home)
    except OSError:
        return QueueExit.NO_HOME
    try:
        control = Control(home)
        control.me()
        servers = control.lines("qmqpservers")
    except ControlUnreadable:
        return QueueExit.CONFIGURATION
    if servers is None:
        return QueueExit.CONFIGURATION
    try:
        message = slurp(0)
        sender, recipients = parse_envelope(slurp(1))
    except OSError:
        return QueueExit.READ_ERROR
    except MemoryError:
        return QueueExit.NO_MEMORY
    except EnvelopeBroken:
        return QueueExit.ENVELOPE_FORMAT
    before, after = frame(len(message), sender, recipients)
    code = QueueExit.CONFIGURATION
    for line in servers:
        place = address_of(line)
        if place is None:
            continue
        code, final = deliver(*place, (before, message, after))
        if final:
            break
    return code
