"""The socket run/send/control, on which qmail-q talks to a running qmail-send (protocol/control.py).

Only root and qmail-send's own user may: the directory is closed to others, and the kernel is asked who the caller is.
Nobody on the other end can make the loop wait: reads and writes never block, a line and the unsent rest are bounded,
an answer is made piece by piece as it is taken, and who neither asks nor takes for a while is cut off.
"""

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Protocol

from pyqmail.protocol import control
from pyqmail.protocol.control import BadRequest, Request
from pyqmail.send.holds import BOUNCE, DELETE
from pyqmail.send.interventions import Interventions
from pyqmail.send.log import Line
from pyqmail.spool.retry import Schedule
from pyqmail.system import files
from pyqmail.system.loop import Loop, Timer

CONNECTIONS_MAX = 8
IDLE_S = 30.0
TIMES_A_LINE = 500
UNSENT_MAX = 65536
PATH_MAX = 107  # sun_path, less the NUL


class Passes(Protocol):
    """What is needed of a channel."""

    schedule: Schedule

    @property
    def jobs(self) -> Mapping[int, object]:
        """The messages that are being delivered."""


class ControlSocket:
    """Listens, and answers through ``interventions``."""

    def __init__(
        self, loop: Loop, path: str, channels: Mapping[str, Passes], interventions: Interventions, log: Line
    ) -> None:
        self.channels = channels
        self.interventions = interventions
        self.connections: set[Connection] = set()
        self.closed = False
        self._loop = loop
        self._path = path
        self._log = log
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Listen; without a place for the socket mail flows all the same, and the log says what is missing."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            files.unlink_if_present(self._path)  # ours to remove: we hold the lock of the one running qmail-send
            with _short(self._path) as path:
                listener.bind(path)
            os.chmod(self._path, 0o600)
            listener.listen(CONNECTIONS_MAX)
        except OSError as error:
            listener.close()
            reason = os.strerror(error.errno or 0).lower().encode()
            self._log(b"warning: unable to listen on run/send/control, qmail-q will not reach me: " + reason)
            return
        listener.setblocking(False)
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """No more connections, and no more orders from those that there are."""
        self.closed = True
        if self._listener is None:
            return
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        self._listener = None
        try:
            files.unlink_if_present(self._path)
        except OSError:
            return

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        uid = _peer_uid(peer)
        if len(self.connections) >= CONNECTIONS_MAX or uid not in (0, os.geteuid()):
            peer.close()
            return
        self.connections.add(Connection(self._loop, peer, f"uid {uid}", self))


def _peer_uid(peer: socket.socket) -> int:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


class _short:
    """``path``, or one through /proc where it is too long for a socket address."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= PATH_MAX:
            return self._path
        folder, name = os.path.split(self._path)
        self._fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{name}"

    def __exit__(self, *exception: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def connect(path: str) -> socket.socket:
    """A connection to the socket at ``path``. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            sock.connect(short)
    except OSError:
        sock.close()
        raise
    return sock


class Connection:
    """One caller. Requests are answered one after another."""

    def __init__(self, loop: Loop, sock: socket.socket, who: str, server: ControlSocket) -> None:
        self._loop = loop
        self._sock = sock
        self._who = who
        self._server = server
        self._in = b""
        self._out = b""
        self._pieces: Iterator[bytes] | None = None
        self._busy = False  # an order is on its way to the disk
        self._timer: Timer | None = None
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._read)
        self._touch()

    def _touch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(IDLE_S, self._close)

    def _close(self) -> None:
        if self._sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._pieces = None
        self._server.connections.discard(self)

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(self._in) + len(data) > control.REQUEST_MAX:
            self._close()
            return
        self._touch()
        self._in += data
        self._next_request()

    def _next_request(self) -> None:
        if self._busy or self._pieces is not None or b"\n" not in self._in or self._sock.fileno() < 0:
            return
        line, _, self._in = self._in.partition(b"\n")
        try:
            request = control.parse_request(line)
        except BadRequest as error:
            self._send(control.format_answer({}, f"bad request: {error}"))
            return
        if request.do == control.STATE:
            self._pieces = self._state(set(request.ids or ()))
            self._loop.add_writer(self._sock.fileno(), self._write)
            return
        if self._server.closed:
            self._send(control.format_answer({}, "qmail-send is ending"))
            return
        self._busy = True
        self._order(request)

    def _order(self, request: Request) -> None:
        interventions, who, ids = self._server.interventions, self._who, request.ids or ()
        if request.do == "retry":
            interventions.retry(who, request.ids, request.what, self._answer)
        elif request.do == "hold":
            interventions.hold(who, ids, request.domain, self._answer)
        elif request.do == "release":
            interventions.release(who, ids, request.domain, self._answer)
        else:
            interventions.end(who, DELETE if request.do == "delete" else BOUNCE, ids, self._answer)

    def _answer(self, states: dict[int, str], trouble: str) -> None:
        self._busy = False
        self._send(control.format_answer(states, trouble))
        self._next_request()

    def _state(self, only: set[int]) -> Iterator[bytes]:
        """What the scheduler knows, in pieces; of the messages in ``only``, or of all if it is empty."""
        interventions = self._server.interventions
        for name, passes in self._server.channels.items():
            times = passes.schedule.snapshot()
            while part := list(islice(times, TIMES_A_LINE)):
                found = [(name, number, when) for number, when in part if not only or number in only]
                yield control.format_times(found) if found else b""
            parked = interventions.parked[name].items()
            yield control.format_times((name, number, when) for number, when in parked if not only or number in only)
        orders = interventions.orders
        delivering = [(name, number) for name, passes in self._server.channels.items() for number in passes.jobs]
        yield control.format_rest(orders.held, orders.endings, sorted(orders.domains), delivering)

    def _send(self, data: bytes) -> None:
        if self._sock.fileno() < 0:
            return
        self._out += data
        if self._out:
            self._loop.add_writer(self._sock.fileno(), self._write)

    def _write(self) -> None:
        """Send what the caller takes, and make the next piece; one piece for each turn of the loop."""
        if self._pieces is not None and len(self._out) < UNSENT_MAX:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
            else:
                self._out += piece
        if self._out:
            try:
                self._out = self._out[self._sock.send(self._out) :]
                self._touch()
            except BlockingIOError:
                return
            except OSError:
                self._close()
                return
        if not self._out and self._pieces is None:
            self._loop.remove_writer(self._sock.fileno())
            self._next_request()
