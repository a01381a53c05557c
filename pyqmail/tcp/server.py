"""tcpserver's parent: it keeps count and log. Workers accept by themselves; where there is no chain, it does."""

import os
import signal
import socket
from collections.abc import Mapping

from pyqmail.control import home_of
from pyqmail.system.alert_clock import AlertClock
from pyqmail.system.loop import Loop
from pyqmail.tcp.admission import Admission
from pyqmail.tcp.chain import Chain
from pyqmail.tcp.children import Children, dead_children
from pyqmail.tcp.command_line import Options
from pyqmail.tcp.connection_log import write_log
from pyqmail.tcp.connection_server import ConnectionServer, reason, warning
from pyqmail.tcp.workers import Events, Task, Workers
from pyqmail.warm.successors import Successors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.tcp.crowd import Crowd
    from pyqmail.tcp.proxy import ProxyDoor

RETRY_ACCEPT_S = 0.1


class Server:
    """The parent: keeps count and log. Workers accept by themselves; where there is no chain, it does."""

    def __init__(
        self, loop: Loop, listener: socket.socket, options: Options, environ: Mapping[bytes, bytes], chain: Chain | None
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._limit = options.limit
        self._verbosity = options.verbosity
        self._active = 0
        self._accepting = False
        self._outmoded = False
        admission = Admission(options.terms, environ)
        crowd = crowd_of(options)
        keep_from_successors(crowd)
        server = ConnectionServer(options, environ, admission, chain, crowd, door_of(options, environ))
        self._children = Children(server.serve, self._ended, crowd)
        self._workers = None
        if chain is not None and chain.pooled:
            title = os.fsdecode(options.program[0]).rpartition("/")[2]
            self._workers = Workers(
                loop,
                listener,
                Task(server.serve, title, logs=options.verbosity >= 2),
                Events(self._began, write_log, self._ended, self._outdated, self._no_process),
                limit=options.limit,
                crowd=crowd,
            )

    def start(self) -> None:
        """Begin to serve."""
        self._listener.setblocking(False)
        self._loop.add_signal(signal.SIGCHLD, self._reap)
        self._log(self._status())
        if self._workers is not None and self._limit > 0:
            self._workers.start()
        else:
            self._listen()

    def close(self) -> None:
        """Give up the port: nobody waits for it until the last worker has gone."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _listen(self) -> None:
        """Accept here, as long as there is room."""
        if self._serving() < self._limit and not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _pause(self) -> None:
        self._accepting = False
        self._loop.remove_reader(self._listener.fileno())

    def _serving(self) -> int:
        return self._children.count() + (0 if self._workers is None else self._workers.count())

    def _accept(self) -> None:
        while self._serving() < self._limit:
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no descriptor or no memory: look again soon, without spinning
                self._pause()
                self._loop.call_later(RETRY_ACCEPT_S, self._listen)
                return
            with connection:
                self._active += 1
                self._log(self._status())
                try:
                    self._children.start(connection, address[:2])
                except OSError as error:
                    self._active -= 1
                    self._warn(f"dropping connection, unable to fork: {reason(error)}")
                    self._log(self._status())
        self._pause()

    def _reap(self) -> None:
        for pid, status in dead_children():
            if not self._children.reap(pid, status) and self._workers is not None:
                self._workers.reap(pid, status)
        if self._workers is None or self._outmoded:
            self._listen()

    def _began(self, text: bytes) -> None:
        self._active += 1
        self._log(self._status() + text)

    def _ended(self, pid: int, status: int) -> None:
        self._active -= 1
        self._log(b"tcpserver: end %d status %d\n" % (pid, status) + self._status())

    def _outdated(self) -> None:
        """Serve from memory no more: workers finish what they have."""
        if self._workers is not None and not self._outmoded:
            self._outmoded = True
            self._warn("the program has changed: it is executed from now on")
            self._workers.stop()
            self._listen()

    def _no_process(self, error: OSError) -> None:
        self._warn(f"unable to fork: {reason(error)}")

    def _status(self) -> bytes:
        return b"tcpserver: status: %d/%d\n" % (self._active, self._limit)

    def _log(self, text: bytes) -> None:
        if self._verbosity >= 2:
            write_log(text)

    def _warn(self, text: str) -> None:
        if self._verbosity >= 1:
            write_log(warning(text))


def door_of(options: Options, environ: Mapping[bytes, bytes]) -> "ProxyDoor | None":
    """What reads PROXY headers, on a port that is marked so."""
    if not options.proxied:
        return None
    from pyqmail.tcp.proxy import ProxyDoor

    return ProxyDoor(home_of(environ))


def keep_from_successors(crowd: "Crowd | None") -> None:
    """What all processes of this server share is not for a child that becomes a user."""
    for shared in (crowd, AlertClock.inherited):
        if Successors.inherited is not None and shared is not None:
            Successors.inherited.without(shared.close)


def crowd_of(options: Options) -> "Crowd | None":
    """The counts by network, where there is a limit to keep."""
    if not options.network_limit and not options.network_rate:
        return None
    from pyqmail.tcp.crowd import Crowd

    # children that are still being collected beside those that are at work
    return Crowd(2 * options.limit + 1, at_once=options.network_limit, a_minute=options.network_rate)
