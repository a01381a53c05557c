"""What is said of a connection: lines in the log of tcpserver, each in one write."""

import _socket
from collections.abc import Callable

from pyqmail.system.logpipe import LogWriter

Peer = tuple[str, int]  # the client's address and port
Ended = Callable[[int, int], None]  # pid and wait status
FAILED = 111


class ConnectionLog:
    """What serves a connection speaks through this: to the log, in one write each."""

    def log(self, text: bytes) -> None:
        """Log ``text``, whole lines."""
        write_log(text)

    def outdated(self) -> None:
        """Say that the program should be executed from now on; it is the last that is said."""


_LOG = LogWriter(2, b"tcpserver")  # of this process; a child goes on with a copy


def write_log(text: bytes) -> None:
    """``text`` to descriptor 2 in one write; a log that fails, or takes nothing any more, stops no mail."""
    _LOG.write(text)


# What serves the client of this process, with an object for the connection that stays the caller's; the exit code.
Serve = Callable[[_socket.socket, Peer, ConnectionLog], int]
