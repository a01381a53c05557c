"""The client of a program, which tcpserver has on descriptors 0 and 1.

A process that serves one connection after another (tcp/worker) spares system calls for each: it has the connection on 0
alone, which is free between two of them, and the kernel's limits of time come with it from the listening socket, whose
options an accepted one has. What is executed in its place finds everything as usual.
"""

import _socket
import os
import struct

from pyqmail.stream.descriptors import DescriptorStream, timeval, turn_of

TICK_S = 0.05  # the kernel's, rounded up: what it makes of a limit may be longer by one
LIMITS = (_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO)


class Standard:
    """What is so for each connection of this process."""

    writer = 1
    limit_s: int | None = None  # of each read and write, a turn of which connections have when they are accepted


def client_stream(timeout_s: int | None, *, shared: bool = False) -> DescriptorStream:
    """The conversation with the client; the arguments are those of DescriptorStream."""
    if timeout_s is None and Standard.limit_s is not None:
        _usual_limits()
    turn_s = turn_of(timeout_s) if timeout_s is not None and timeout_s == Standard.limit_s else None
    return DescriptorStream(0, Standard.writer, timeout_s, shared=shared, kernel_s=turn_s)


def limit(sock: _socket.socket, seconds: float) -> None:
    """Have the kernel limit each read and write on ``sock``, and on what it will accept, if it does; 0 is no limit."""
    try:
        for option in LIMITS:
            sock.setsockopt(_socket.SOL_SOCKET, option, timeval(seconds))
    except OSError:
        pass  # client_socket sees it, and a program that is executed can do with a limit


def take(fd: int) -> None:
    """Have the connection ``fd`` for our client, and nowhere else.

    In a worker it is where it belongs already: accept(2) gives the lowest number that is free.
    """
    if fd != 0:
        os.dup2(fd, 0)
        os.close(fd)
    if Standard.writer == 1:
        os.dup2(0, 1)


def client_socket(family: int) -> _socket.socket:
    """An object for the socket on 0, whichever is there; the first one shows whether limits come with them."""
    sock = _socket.socket(family, _socket.SOCK_STREAM, 0, fileno=0)
    if Standard.limit_s is not None and not _limited(sock, turn_of(Standard.limit_s)):
        Standard.limit_s = None
    return sock


def _limited(sock: _socket.socket, seconds: float) -> bool:
    try:
        found = [struct.unpack("ll", sock.getsockopt(_socket.SOL_SOCKET, option, 16)) for option in LIMITS]
    except OSError:
        return False
    return all(abs(whole + part / 1_000_000 - seconds) < TICK_S for whole, part in found)


def as_usual() -> None:
    """Make of the connection what another program expects. Raises OSError."""
    if Standard.writer == 0:
        os.dup2(0, 1)
        os.set_inheritable(0, True)
    if Standard.limit_s is not None:
        _usual_limits()


def _usual_limits() -> None:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fileno=0)  # of any family
    limit(sock, 0)
    sock.detach()
