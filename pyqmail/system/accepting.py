"""Connections as the C module makes them.

``socket.socket.accept`` has 17 calls of Python made for each, of nine functions in two modules, most of them for enums:
of a session of SMTP with one message they were a twentieth, and of what qmail-queued's parent does for it a third.
"""

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any


def accept(listener: "socket.socket", family: int, kind: int) -> "tuple[_socket.socket, Any]":
    """A connection of ``listener``, which is of that family and kind, and its peer's address. Raises OSError."""
    fd, address = listener._accept()  # type: ignore[attr-defined]  # what socket.accept begins with
    return _socket.socket(family, kind, 0, fileno=fd), address
