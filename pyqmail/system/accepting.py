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
    fd, address = accept_number(listener)
    return _socket.socket(family, kind, 0, fileno=fd), address


def accept_number(listener: "socket.socket") -> "tuple[int, Any]":
    """The same as a bare descriptor: to make an object of one costs a system call."""
    return listener._accept()  # type: ignore[attr-defined,no-any-return]  # what socket.accept begins with
