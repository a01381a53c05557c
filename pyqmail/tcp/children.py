"""A child of tcpserver for each connection, where no workers serve."""

import os
import socket
from collections.abc import Iterable

from pyqmail.stream.standard import client_socket, take
from pyqmail.system.process import close_all_but, reset_signals
from pyqmail.tcp.connection_log import FAILED, ConnectionLog, Ended, Peer, Serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.tcp.crowd import Crowd


class Children:
    """A child for each connection, in which ``serve`` runs once, or executes a program."""

    def __init__(self, serve: Serve, ended: Ended, crowd: "Crowd | None" = None) -> None:
        self._serve = serve
        self._crowd = crowd
        self._ended = ended
        self._pids: set[int] = set()

    def count(self) -> int:
        """How many children there are."""
        return len(self._pids)

    def start(self, connection: socket.socket, peer: Peer) -> None:
        """Fork for ``connection``; the caller closes its own copy. Raises OSError."""
        if self._crowd is not None:
            self._crowd.find_place()
        pid = os.fork()
        if pid:
            self._pids.add(pid)
            if self._crowd is not None:
                self._crowd.placed(pid)
            return
        code = FAILED
        try:
            family, fd = int(connection.family), connection.detach()
            close_all_but((0, 1, 2, fd))
            reset_signals()
            take(fd)
            code = self._serve(client_socket(family), peer, ConnectionLog())
        finally:
            os._exit(code)

    def reap(self, pid: int, status: int) -> bool:
        """Note that child ``pid`` has ended; false when it was none of these."""
        if pid not in self._pids:
            return False
        self._pids.remove(pid)
        if self._crowd is not None:
            self._crowd.left(pid)
        self._ended(pid, status)
        return True


def dead_children() -> Iterable[tuple[int, int]]:
    """Collect the children that have ended: pid and wait status of each."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
