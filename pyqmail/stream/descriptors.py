"""The stream on two descriptors, or twice the same: sockets, pipes, files.

Where both are ends of a socket that is ours alone, the kernel keeps the time (SO_RCVTIMEO, SO_SNDTIMEO), so that each
read and each write is one system call. It ends each wait after a turn of ``TURN_S`` at most, and as many turns as make
the limit are waited, so that a deadline that is further away than one turn needs no other call either. Elsewhere
waiting is done by poll(2), and no more is written at once than what then fits: 4096 bytes to a pipe, and to a socket
whatever it takes without waiting. O_NONBLOCK belongs to everybody who shares a descriptor, and is never set here; where
somebody else has set it, this works all the same.
"""

import _socket
import os
import select
import stat
import struct
import time

from pyqmail.stream.stream import CHUNK, Stream, StreamEnded, StreamTimedOut

TURN_S = 30.0  # half of what a TLS handshake has: with one round trip in it no deadline of ours is nearer
PIPE_PIECE = 4096  # POSIX: a pipe that polls as writable takes PIPE_BUF bytes
_STANDARD: dict[int, _socket.socket] = {}  # what sets options of the socket on 0 or 1, whichever is there now


class DescriptorStream(Stream):
    """A conversation on descriptors that stay the caller's."""

    def __init__(
        self,
        reader: int,
        writer: int,
        timeout_s: float | None,
        *,
        shared: bool = False,
        kernel_s: float | None = None,
    ) -> None:
        """``timeout_s`` limits each wait (None: as long as it takes). ``shared``: another program will have the sockets
        after us, so that their options are left alone. ``kernel_s``: the kernel ends each wait after that time already,
        of which a whole number makes the limit."""
        super().__init__()
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        if kernel_s is None and timeout_s is not None and not shared:
            kernel_s = self._arm(turn_of(timeout_s))
        self._kernel_s = kernel_s  # one turn; None: the kernel ends nothing
        self.sockets = kernel_s is not None
        self._socket = True if self.sockets else None  # None: not known yet
        self._simple = self.sockets or timeout_s is None  # each read and write is one system call

    def _arm(self, turn_s: float) -> float | None:
        """Let the kernel limit each read and write: ``turn_s``; None where one of the descriptors is no socket."""
        limit = timeval(turn_s)
        try:
            _set_option(self._reader, _socket.SO_RCVTIMEO, limit)
            _set_option(self._writer, _socket.SO_SNDTIMEO, limit)
            return turn_s
        except OSError:
            return None

    def until(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._simple = deadline is None and (self._kernel_s is not None or self._timeout_s is None)

    def close(self) -> None:
        try:
            self.flush()
        except StreamEnded:
            pass

    def _surrender(self) -> "DescriptorStream":
        other = DescriptorStream.__new__(DescriptorStream)
        other.__dict__.update(self.__dict__)
        other._out = bytearray()
        self._reader = self._writer = -1
        return other

    def _receive(self) -> bytes:
        turns = 0
        while True:
            try:
                if not (self._simple or self._far() or self._ready(self._reader, select.POLLIN)):
                    raise StreamTimedOut
                data = os.read(self._reader, CHUNK)
            except BlockingIOError:
                turns += 1
                if self._goes_on(self._reader, turns):
                    continue
                raise StreamTimedOut from None
            except (OSError, ValueError):  # ValueError: a descriptor that another stream has taken over
                raise StreamEnded from None
            if not data:
                raise StreamEnded
            return data

    def _send(self, data: bytes | bytearray) -> None:
        turns = 0
        while True:
            try:
                if self._simple or self._far():
                    sent = os.write(self._writer, data)
                elif self._ready(self._writer, select.POLLOUT):
                    sent = self._write_some(data)
                else:
                    raise StreamEnded
                if sent == len(data):
                    return
                data, turns = data[sent:], 0
            except BlockingIOError:
                turns += self._simple or self._far()
                if not self._goes_on(self._writer, turns):
                    raise StreamEnded from None
            except (OSError, ValueError):  # ValueError: a descriptor that another stream has taken over
                raise StreamEnded from None

    def _far(self) -> bool:
        """Whether the kernel ends a wait before the deadline does."""
        turn_s, deadline = self._kernel_s, self._deadline
        return turn_s is not None and deadline is not None and deadline - time.monotonic() >= turn_s

    def _write_some(self, data: bytes | bytearray) -> int:
        if self._socket is None:
            self._socket = _is_socket(self._writer)
        if not self._socket:
            return os.write(self._writer, data[:PIPE_PIECE])
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fileno=self._writer)  # only for its send
        try:
            return sock.send(data, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
        finally:
            sock.detach()

    def _ready(self, fd: int, event: int) -> bool:
        """Wait; false when the time is over."""
        seconds = self._timeout_s
        if self._deadline is not None:
            left = max(0.0, self._deadline - time.monotonic())
            seconds = left if seconds is None else min(left, seconds)
        return _poll(fd, event, seconds)

    def _goes_on(self, fd: int, turns: int) -> bool:
        """After EAGAIN: whether to try again, since ``turns`` are not all of the limit, or since it was no time-out but
        a descriptor that somebody has made non-blocking."""
        turn_s, timeout_s = self._kernel_s, self._timeout_s
        if turn_s is None and timeout_s is not None:
            return True  # polled, and somebody else was quicker
        if os.get_blocking(fd):
            if turn_s is None or timeout_s is None:
                return self._deadline is not None
            return turns < round(timeout_s / turn_s)
        self._kernel_s, self._simple = None, False
        if timeout_s is None:
            _poll(fd, select.POLLIN if fd == self._reader else select.POLLOUT, None)
        return True


def turn_of(timeout_s: float) -> float:
    """How long the kernel may let a wait last where ``timeout_s`` is the limit: all of it, or an equal part."""
    return timeout_s / max(1.0, -(-timeout_s // TURN_S))


def timeval(seconds: float) -> bytes:
    """``seconds`` as a struct timeval."""
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))


def _poll(fd: int, event: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _set_option(fd: int, option: int, value: bytes) -> None:
    """Set an option of the socket ``fd``. Raises OSError where it is none.

    To make an object of a descriptor costs a system call, so that those of 0 and 1 serve all sessions of a process.
    """
    sock = _STANDARD.get(fd) or _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fileno=fd)  # of any family
    try:
        sock.setsockopt(_socket.SOL_SOCKET, option, value)
    finally:
        if fd in (0, 1):
            _STANDARD[fd] = sock
        else:
            sock.detach()


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
