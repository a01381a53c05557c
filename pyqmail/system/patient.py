"""Reading from and writing to a peer that may be slow, with a limit on each wait; O_NONBLOCK is left as it is.

That flag belongs to everybody who shares the descriptor, so waiting is done by poll(2), and no more is written at once
than what then fits: 4096 bytes to a pipe, and to a socket whatever it takes without waiting.
"""

import _socket
import os
import select
import stat

PIPE_PIECE = 4096  # POSIX: a pipe that polls as writable takes PIPE_BUF bytes
SOCKET_PIECE = 65536


class TimedOut(OSError):
    """The peer let the time limit pass."""


def _wait(fd: int, event: int, seconds: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(seconds * 1000):
        raise TimedOut


def read_within(fd: int, size: int, seconds: float) -> bytes:
    """At most ``size`` bytes from ``fd``; empty at its end. Raises TimedOut and OSError."""
    while True:
        _wait(fd, select.POLLIN, seconds)
        try:
            return os.read(fd, size)
        except BlockingIOError:
            continue


class PatientWriter:
    """Writes to one descriptor; ``seconds`` is the limit on each wait for room."""

    def __init__(self, fd: int, seconds: float) -> None:
        self._fd = fd
        self._seconds = seconds
        self._socket = _is_socket(fd)

    def write(self, data: bytes | bytearray) -> None:
        """Write all of ``data``. Raises TimedOut and OSError."""
        view = memoryview(data)
        while view:
            _wait(self._fd, select.POLLOUT, self._seconds)
            try:
                done = _send(self._fd, view[:SOCKET_PIECE]) if self._socket else os.write(self._fd, view[:PIPE_PIECE])
            except BlockingIOError:
                continue
            view = view[done:]


def _send(fd: int, data: memoryview) -> int:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fileno=fd)  # of whatever family: only send is used
    try:
        return sock.send(data, _socket.MSG_DONTWAIT)
    finally:
        sock.detach()


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
