"""Tells qmail-rcptd which maps are in force, at start and after each HUP (qmail-rcptd(8)).

The supervisor of qmail-start hands us the descriptor of each new qmail-rcptd, over a socket that we have by an entry in
the environment mapping of this process, and its alerts with it; without that there is no qmail-rcptd. One that does not
listen is given up: recipients are accepted unasked until the supervisor has made another.
"""

import socket
import struct
from collections.abc import Mapping

from pyqmail.log.events import Alert
from pyqmail.log.sinks import Sink
from pyqmail.policy.classify import Routing
from pyqmail.policy.routing_wire import format_routing
from pyqmail.protocol import supervision
from pyqmail.system.loop import Loop

PATIENCE_S = 2


class RoutingFeed:
    """Our ends of the connections to the supervisor and to qmail-rcptd."""

    def __init__(self, environ: Mapping[bytes, bytes], loop: Loop, log: Sink) -> None:
        self._supervisor: socket.socket | None = None
        self._helper: socket.socket | None = None
        self._routing: Routing | None = None
        self._loop = loop
        self._log = log
        number = environ.get(supervision.FD_VARIABLE, b"")
        if not number.isdigit():
            return
        try:
            self._supervisor = socket.socket(fileno=int(number))
            self._supervisor.setblocking(False)
        except OSError:
            self._supervisor = None  # the variable is not of qmail-start's making

    def serve(self, routing: Routing) -> None:
        """Say that we hold the queue's lock, and that ``routing`` is in force."""
        self._routing = routing
        if self._supervisor is None:
            return
        try:
            self._supervisor.send(supervision.HERE, socket.MSG_NOSIGNAL)
            self._loop.add_reader(self._supervisor.fileno(), self._hear)
        except OSError:
            self._forget_supervisor()

    def publish(self, routing: Routing) -> None:
        """Send the maps; they hold until the next ones, for each qmail-rcptd that comes."""
        self._routing = routing
        if self._helper is None:
            return
        left = memoryview(format_routing(routing))
        try:
            while left:
                left = left[self._helper.send(left, socket.MSG_NOSIGNAL) :]
        except OSError:
            self._helper.close()
            self._helper = None

    def _hear(self) -> None:
        """What the supervisor says."""
        assert self._supervisor is not None
        try:
            record, fds, _, _ = socket.recv_fds(self._supervisor, supervision.RECORD_MAX, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            record, fds = b"", []
        if not record:
            self._log(Alert(b"the supervisor of qmail-start is gone: helpers that end are not started again"))
            self._forget_supervisor()
            return
        match supervision.parse_record(record):
            case (b"A", text):
                self._log(Alert(text))
            case (supervision.ENDS, _):
                self._forget_supervisor()
            case (b"F", b"qmail-rcptd") if fds:
                self._feed(socket.socket(fileno=fds.pop()))
        for fd in fds:
            socket.close(fd)

    def _feed(self, helper: socket.socket) -> None:
        """A new qmail-rcptd: it hears the maps at once."""
        if self._helper is not None:
            self._helper.close()
        helper.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", PATIENCE_S, 0))
        self._helper = helper
        if self._routing is not None:
            self.publish(self._routing)

    def _forget_supervisor(self) -> None:
        assert self._supervisor is not None
        self._loop.remove_reader(self._supervisor.fileno())
        self._supervisor.close()
        self._supervisor = None


def without_feed(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """``environ`` for programs that we execute: the descriptor is ours alone."""
    return {name: value for name, value in environ.items() if name != supervision.FD_VARIABLE}
