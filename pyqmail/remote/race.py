"""A connection to whichever address of an exchanger takes it first (RFC 8305 section 5).

The second is tried as well when the first has said nothing for two seconds, so that a network in which one family of
addresses leads nowhere does not cost control/timeoutconnect. One that refuses is no race: the next address is that of
RFC 6724.
"""

import contextlib
import errno
import os
import select
import socket
import time

from pyqmail.failure import TemporaryFailure
from pyqmail.remote.connection import Place, address_of, open_socket

HEAD_START_S = 2.0  # the most that RFC 8305 section 8 allows: a neighbour that is asked for twice is found by then


def race(first: Place, second: Place, timeout_s: float) -> tuple[Place, socket.socket]:
    """The place that took a connection, and its socket. Raises OSError where ``first`` refuses before ``second`` began.

    And where both do; TimeoutError where one says nothing for ``timeout_s``; TemporaryFailure as `open_socket`.
    """
    until = time.monotonic() + timeout_s
    sock = _begun(first)
    running = {sock.fileno(): (first, sock)}
    try:
        winner = _winner(running, min(HEAD_START_S, timeout_s))
        if winner is None:
            with contextlib.suppress(OSError, TemporaryFailure):  # then the first is on its own
                sock = _begun(second)
                running[sock.fileno()] = second, sock
        while winner is None:
            try:
                winner = _winner(running, max(0.0, until - time.monotonic()))
            except OSError:
                if not running:
                    raise
                continue
            if winner is None:
                raise TimeoutError(errno.ETIMEDOUT, "connect")
        return winner
    finally:
        for _, sock in running.values():
            sock.close()


def _winner(running: dict[int, tuple[Place, socket.socket]], seconds: float) -> tuple[Place, socket.socket] | None:
    """The one of ``running``, taken out, that is connected within so many seconds; None where none says anything.

    Raises OSError for one that refuses, which is closed.
    """
    poll = select.poll()
    for fd in running:
        poll.register(fd, select.POLLOUT)
    for fd, _ in poll.poll(seconds * 1000):
        place, sock = running.pop(fd)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            sock.close()
            raise OSError(code, os.strerror(code))
        sock.setblocking(True)
        return place, sock
    return None


def _begun(place: Place) -> socket.socket:
    """A socket on its way to ``place``. Raises as `open_socket`."""
    sock = open_socket(place)
    sock.setblocking(False)
    code = sock.connect_ex(address_of(place))
    if code not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(code, os.strerror(code))
    return sock
