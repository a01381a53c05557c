"""Tells qmail-rcptd which maps are in force, at start and after each HUP (qmail-rcptd(8)).

The descriptor comes from qmail-start by an entry in the environment mapping of this process; without it there is no
qmail-rcptd. One that does not listen is given up: recipients are then accepted unasked.
"""

import socket
import struct
from collections.abc import Mapping

from pyqmail.policy.classify import Routing
from pyqmail.policy.routing_wire import FD_VARIABLE, format_routing

PATIENCE_S = 2


class RoutingFeed:
    """Our end of the connection."""

    def __init__(self, environ: Mapping[bytes, bytes]) -> None:
        self._socket: socket.socket | None = None
        number = environ.get(FD_VARIABLE, b"")
        if not number.isdigit():
            return
        try:
            self._socket = socket.socket(fileno=int(number))
            limit = struct.pack("ll", PATIENCE_S, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        except OSError:
            self._socket = None  # the variable is not of qmail-start's making

    def publish(self, routing: Routing) -> None:
        """Send the maps; they hold until the next ones."""
        if self._socket is None:
            return
        left = memoryview(format_routing(routing))
        try:
            while left:
                left = left[self._socket.send(left, socket.MSG_NOSIGNAL) :]
        except OSError:
            self._socket.close()
            self._socket = None


def without_feed(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """``environ`` for programs that we execute: the descriptor is ours alone."""
    return {name: value for name, value in environ.items() if name != FD_VARIABLE}
