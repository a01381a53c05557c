"""The socket of a service under its well-known name (unix(7))."""

import os
import socket

from pyqmail.system import files

BACKLOG = 512


def listen(path: str) -> socket.socket:
    """A listening SOCK_SEQPACKET socket at ``path``, in place of one that is left there. Raises OSError.

    Everybody may connect; who is answered is said by the peer's credentials.
    """
    files.unlink_if_present(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o111)  # not chmod: the directory is another user's
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
