"""One record with descriptors between a parent and its worker: a datagram on a SOCK_SEQPACKET pair.

A record is bytes that the two sides define (fixed binary, never pickle) and up to eight descriptors. Workers run as
other users than their parent, so a parent treats what it receives as hostile.
"""

import _socket
import array
import os
import socket

RECORD_MAX = 131072
DESCRIPTORS_MAX = 8
# Of plain numbers: those of the socket module are enums, whose arithmetic touches 80 pages that a worker then copies.
TRUNCATED = _socket.MSG_TRUNC | _socket.MSG_CTRUNC


def pair() -> tuple[socket.socket, socket.socket]:
    """The parent's and the worker's end of a job socket; both close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_record(sock: socket.socket, payload: bytes, fds: tuple[int, ...] = (), *, wait: bool = True) -> None:
    """Send one record. Raises OSError (BlockingIOError on a full socket that is not to be waited for)."""
    flags = _socket.MSG_NOSIGNAL if wait else _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT
    if fds:
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds).tobytes())
        sock.sendmsg([payload], [rights], flags)
    else:
        sock.send(payload, flags)


def receive_record(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next record and its descriptors (close-on-exec); None at the end. Raises OSError.

    A truncated record is an error, and its descriptors are closed.
    """
    size = _socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)
    payload, ancillary, flags, _ = sock.recvmsg(RECORD_MAX, size, _socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if flags & TRUNCATED:
        for fd in fds:
            os.close(fd)
        raise OSError("truncated record")
    if not payload:
        return None
    return payload, list(fds)
