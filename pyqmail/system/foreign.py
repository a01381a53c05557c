"""Descriptors that came from strangers by a local socket: what they are, and how to be rid of them.

Closing is no harmless act on what a stranger made: the last close of a TCP socket may wait for its peer (SO_LINGER, as
long as the stranger likes), that of a file for the stranger's own file system (FUSE), and that of a pipe for a write of
the stranger's that sits in a page of such a file: then nothing ends it, no signal either. Whoever does any of it
must be a process that serves that stranger alone. That goes for what the kernel would drop too: descriptors that do not
fit, or that nobody has received, are closed by whoever receives the rest or closes the socket.
"""

import _socket
import _thread
import array
import os
import socket
import struct

MANY = 253  # descriptors in one record: the kernel's SCM_MAX_FD
RIGHTS_SPACE = socket.CMSG_SPACE(MANY * 4)
PIPE = "pipe:["
SOCKET = "socket:["
STACK_BYTES = 262144
_NO_LINGER = struct.pack("ii", 0, 0)


def kind(fd: int) -> str:
    """PIPE, SOCKET, or anything else; learned from /proc, which asks neither the file nor its file system.

    A FIFO with a name is something else: its file system may have a say in it.
    """
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
    return next((name for name in (PIPE, SOCKET) if target.startswith(name)), "")


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


def shut(connection: _socket.socket) -> list[int] | None:
    """Let nothing more be sent on ``connection``; the descriptors of the first record that waits on it, None for none.

    ``connection`` has SO_PASSCRED set: each record comes with credentials, so that an empty one is not the end.
    """
    try:
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        pass  # the other end is closed
    return unasked(connection)


def unasked(connection: _socket.socket) -> list[int] | None:
    """The descriptors of the next record on a connection that is shut; None when there is no more."""
    try:
        _, ancillary, _, _ = connection.recvmsg(
            1, RIGHTS_SPACE + socket.CMSG_SPACE(12), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        )
    except OSError:
        return None
    return rights_of(ancillary) if ancillary else None


def close(fd: int) -> None:
    """Close ``fd``, which a stranger made: in a process, or at least a thread, that may wait for it."""
    try:
        sock = borrow(fd)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        finally:
            sock.detach()
    except Exception:
        pass  # no socket, or of a kind that knows no such option: CPython has errors of its own for some
    finally:
        try:
            os.close(fd)
        except OSError:
            pass


def close_aside(fds: list[int]) -> None:
    """Close ``fds`` in a thread of its own, where nobody waits for it."""
    if not fds:
        return
    _thread.stack_size(STACK_BYTES)
    try:
        _thread.start_new_thread(close_each, (fds,))
    except RuntimeError:  # no room for a thread
        close_each(fds)


def close_each(fds: list[int]) -> None:
    """Close each of ``fds``, which a stranger made."""
    for fd in fds:
        close(fd)
