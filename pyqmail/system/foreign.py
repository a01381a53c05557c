"""Descriptors that came from strangers by a local socket: what they are, and how to be rid of them.

Closing is no harmless act on what a stranger made: the last close of a TCP socket may wait for its peer (SO_LINGER, as
long as the stranger likes), and that of a file may wait for the stranger's own file system (FUSE). Only pipes are sure.
All else is closed in a thread of its own. That goes for what the kernel would drop too: descriptors that do not fit, or
that nobody has received, are closed by whoever receives the rest or closes the socket.
"""

import _thread
import array
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Sequence

MANY = 253  # descriptors in one record: the kernel's SCM_MAX_FD
RIGHTS_SPACE = socket.CMSG_SPACE(MANY * 4)
STACK_BYTES = 262144
_NO_LINGER = struct.pack("ii", 0, 0)


def is_pipe(fd: int) -> bool:
    """Whether ``fd`` is a pipe or FIFO. Unlike fstat(2) it asks no file system, which might be slow to answer."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) > 0
    except OSError:
        return False


def is_socket(fd: int) -> bool:
    """Whether ``fd`` is a socket that can be received from."""
    try:
        borrow(fd).detach()
    except OSError:
        return False
    return True


def borrow(fd: int) -> socket.socket:
    """A socket object on ``fd``; detach it. Raises OSError, for some kinds of sockets too."""
    return socket.socket(fileno=fd)


def rights_of(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in ``ancillary`` data."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def give_back(
    connection: socket.socket | None,
    fds: Sequence[int],
    then: Callable[[], None] | None = None,
    *,
    pipes: bool = False,
) -> None:
    """Close ``fds``, and ``connection`` last with all that may have been sent on it unasked; never waits.

    With ``pipes`` all of ``fds`` are known to be pipes. ``then`` is called when all is closed, perhaps in another
    thread: what it does must be safe there. ``connection`` has SO_PASSCRED set, and nobody else receives from it.
    """
    odd = []
    for fd in fds:
        if pipes or is_pipe(fd):
            os.close(fd)
        else:
            odd.append(fd)
    if connection is not None:
        _shut(connection)  # from here on nothing more can be sent
        unasked = _unasked(connection)
        if not odd and unasked is None:
            connection.close()
            connection = None
        odd += unasked or ()
    if odd or connection is not None:
        _thread.stack_size(STACK_BYTES)  # a hundred of them must fit into a modest limit of memory
        try:
            _thread.start_new_thread(_close_slowly, (connection, odd, then))
        except RuntimeError:  # no room for a thread
            _close_slowly(connection, odd, then)
    elif then is not None:
        then()


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        pass  # the other end is closed


def _unasked(connection: socket.socket) -> list[int] | None:
    """The descriptors of the next record on a connection that is shut; None when there is no more.

    Each record comes with credentials, so that an empty one is not taken for the end.
    """
    try:
        _, ancillary, _, _ = connection.recvmsg(
            1, RIGHTS_SPACE + socket.CMSG_SPACE(12), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        )
    except OSError:
        return None
    return rights_of(ancillary) if ancillary else None


def _close_slowly(connection: socket.socket | None, fds: list[int] | None, then: Callable[[], None] | None) -> None:
    while fds is not None:
        for fd in fds:
            _close(fd)
        fds = None if connection is None else _unasked(connection)
    if connection is not None:
        connection.close()
    if then is not None:
        then()


def _close(fd: int) -> None:
    try:
        sock = borrow(fd)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        finally:
            sock.detach()
    except OSError:
        pass  # no socket, or one of a kind that knows no such option
    try:
        os.close(fd)
    except OSError:
        pass
