"""The socket run/send/control, on which qmail-q talks to a running qmail-send (protocol/control.py).

Only root and qmail-send's own user may: the directory is closed to others, and the kernel is asked who the caller is.
Nobody on the other end can make the loop wait: reads and writes never block, a line and the unsent rest are bounded,
an answer is made piece by piece as it is taken, and who neither asks nor takes for a while is cut off.
"""

import os
import socket
from collections.abc import Callable, Mapping

from pyqmail.log.events import Warn
from pyqmail.log.sinks import Sink
from pyqmail.send.control_connection import ControlConnection, Passes, Served
from pyqmail.send.order_book import OrderBook
from pyqmail.send.order_requests import OrderRequests
from pyqmail.system import files
from pyqmail.system.loop import Loop
from pyqmail.system.peer import peer_credentials

CONNECTIONS_MAX = 8
PATH_MAX = 107  # sun_path, less the NUL


class ControlSocket:
    """Listens, and answers through ``requests``."""

    def __init__(
        self,
        loop: Loop,
        path: str,
        channels: Mapping[str, Passes],
        book: OrderBook,
        requests: OrderRequests,
        measure: Callable[[], bytes],
        log: Sink,
    ) -> None:
        self.served = Served(channels, book, requests, measure)
        self.connections: set[ControlConnection] = set()
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
            self._log(Warn(b"unable to listen on run/send/control, qmail-q will not reach me: " + reason))
            return
        listener.setblocking(False)
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """No more connections, and no more orders from those that there are."""
        self.served.closed = True
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
        uid = peer_credentials(peer)[1]
        if len(self.connections) >= CONNECTIONS_MAX or uid not in (0, os.geteuid()):
            peer.close()
            return
        self.connections.add(ControlConnection(self._loop, peer, f"uid {uid}", self.served, self.connections.discard))


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
