"""Who is at the other end of a Unix socket, by the kernel's word (SO_PEERCRED, unix(7))."""

import _socket
import struct

_UCRED = struct.Struct("iII")  # a struct ucred


def peer_credentials(sock: _socket.socket) -> tuple[int, int, int]:
    """Pid, uid and gid of who has connected, or of who listens where we have. Raises OSError."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid
