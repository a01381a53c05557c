"""tcpserver's workers, which accept connections for themselves. Where there are none it forks (tcp/children).

Workers hold the program in memory and wait on the listening socket. The kernel alone hands out connections:

    listener's wait queue     worker 1, worker 2, ... worker n, parent     (EPOLLEXCLUSIVE: the first idle one wakes)

The parent stands last in the queue, so it is woken only when every worker is busy; then it forks as many as connections
wait, up to the limit. Nothing is asked of the parent for a connection that an idle worker takes, and a lightly loaded
server uses the same few processes, whose memory is in the processor's caches. A full house means as many busy workers
as the limit; the parent then leaves the queue until one has ended, and accepting is deferred.

A worker tells its parent, in records on a socket pair of its own (the first byte says which):

    R           it waits for connections now, or has just taken its first
    C TEXT      it has taken a connection; TEXT goes to the log          only when there is a log of connections
    L TEXT      TEXT goes to the log                                     the same
    E STATUS    the connection has ended, with a 4-byte wait status      the same
    I           it has been idle for long; the parent may answer, which ends it
    O           the program is not what it was: the parent is to serve no more from memory

A worker that dies while it has a connection is that connection's end, and no other's. When the parent goes, for
whatever reason, its end of the socket pair closes: idle workers end, busy ones give up the listening socket at once
(SIGIO), finish their connection and end, so that a new server can bind to the port.
"""

import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from pyqmail.system.loop import Loop
from pyqmail.system.process import close_all_but, ignore_signals, reset_signals, set_title
from pyqmail.tcp.connection_log import FAILED, Ended, Serve
from pyqmail.tcp.worker import RECORD_MAX, STATUS, WorkerLife

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyqmail.tcp.crowd import Crowd

TCP_INFO_UNACKED = 24  # of a listening socket: how many connections wait to be accepted (linux/tcp.h)
BURST = 16  # workers forked in one go
RETRY_S = 0.5  # after a fork that failed, or a worker that died before it was ready
OTHER_DESCRIPTORS = 32  # that the parent has beside one for each worker


class WorkerLink:
    """A worker as its parent sees it."""

    __slots__ = ("active", "pid", "ready", "reports", "retiring")

    def __init__(self, pid: int, reports: int) -> None:
        self.pid = pid
        self.reports = reports  # a bare number: a fresh child must not close it by forgetting an object
        self.ready = False
        self.active = False
        self.retiring = False


@dataclass(frozen=True, slots=True)
class Events:
    """Who hears what workers tell. With a log of connections each is announced."""

    began: Callable[[bytes], None]  # a connection; the text is for the log
    said: Callable[[bytes], None]  # what is to be logged in between
    ended: Ended  # the worker's process and a wait status
    outdated: Callable[[], None]  # the program has changed
    troubled: Callable[[OSError], None]  # no worker can be made


@dataclass(frozen=True, slots=True)
class Task:
    """What each worker does until it has served so many connections, or was idle so long."""

    serve: Serve
    title: str
    logs: bool
    served_max: int = 1000
    idle_s: float = 60.0

    def run(self, listener: socket.socket, reports: int, descriptors: tuple[int, int]) -> "NoReturn":
        """In a fresh child. ``descriptors`` is the limit that it should have."""
        code = FAILED
        try:
            close_all_but((0, 1, 2, reports, listener.fileno()))
            resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
            reset_signals()
            ignore_signals(signal.SIGPIPE)
            set_title(self.title)
            WorkerLife(listener, reports, self.serve, logs=self.logs).run(self.served_max, self.idle_s)
            code = 0
        finally:
            os._exit(code)


class Overflow:
    """The parent's place in the queue of those who wait on the listening socket: the last one."""

    def __init__(self, loop: Loop, listener: socket.socket) -> None:
        self._loop = loop
        self._listener = listener
        self._queue = select.epoll()
        self._watching = False

    def tell(self, all_busy: Callable[[], None]) -> None:
        """Call ``all_busy`` whenever somebody waits whom no worker was free to take; by now one may be."""
        self._loop.add_reader(self._queue.fileno(), all_busy)

    def join(self) -> None:
        """Stand behind every worker that there is now."""
        self.leave()
        self._queue.register(self._listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._watching = True

    def leave(self) -> None:
        """Wait no more."""
        if self._watching:
            self._queue.unregister(self._listener.fileno())
            self._watching = False

    def waiting(self) -> int:
        """How many connections wait to be accepted."""
        info = self._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_UNACKED + 4)
        return int(struct.unpack_from("=I", info, TCP_INFO_UNACKED)[0])


class Workers:
    """``task`` in workers that accept from ``listener``, at most ``limit`` of them."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        task: Task,
        events: Events,
        *,
        limit: int,
        crowd: "Crowd | None" = None,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._task = task
        self._events = events
        self._limit = limit
        self._crowd = crowd
        self._overflow = Overflow(loop, listener)
        self._workers: dict[int, WorkerLink] = {}
        self._starting = 0
        self._stopped = False
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)

    def start(self) -> None:
        """Make the first worker; call ``reap`` when SIGCHLD comes."""
        soft, hard = self._descriptors
        needed = self._limit + OTHER_DESCRIPTORS
        if soft != resource.RLIM_INFINITY and soft < needed:
            wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))  # for this process: workers keep what was given
        self._overflow.tell(self._all_busy)
        self._grow(1)

    def stop(self) -> None:
        """Take no more connections; workers end when they have finished theirs."""
        self._stopped = True
        self._overflow.leave()
        for worker in self._workers.values():
            self._retire(worker)

    def count(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def reap(self, pid: int, status: int) -> bool:
        """Note that child ``pid`` has ended; false when it was no worker."""
        worker = self._workers.get(pid)
        if worker is None:
            return False
        while self._hear(worker):
            continue
        del self._workers[pid]
        if self._crowd is not None:
            self._crowd.left(pid)
        self._loop.remove_reader(worker.reports)
        os.close(worker.reports)
        if worker.active:
            self._events.ended(pid, status)
        if not worker.ready:
            self._starting -= 1
            self._loop.call_later(RETRY_S, self._watch)
        elif not self._workers:
            self._grow(1)
        else:
            self._watch()
        return True

    def _watch(self) -> None:
        """Hear of those that wait, if a worker can be made for them."""
        self._overflow.leave()
        if not self._stopped and self._starting == 0 and len(self._workers) < self._limit:
            self._overflow.join()

    def _all_busy(self) -> None:
        waiting = self._overflow.waiting()
        if waiting:
            self._grow(min(waiting + len(self._workers) // 8, BURST))  # a few more: where some come others follow

    def _grow(self, wanted: int) -> None:
        self._overflow.leave()
        if self._stopped:
            return
        for _ in range(min(wanted, self._limit - len(self._workers))):
            try:
                self._fork()
            except OSError as error:
                self._events.troubled(error)
                self._loop.call_later(RETRY_S, self._recover)
                return

    def _recover(self) -> None:
        if not self._workers:
            self._grow(1)
        self._watch()

    def _fork(self) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            mine.setblocking(False)
            if self._crowd is not None:
                self._crowd.find_place()
            pid = os.fork()
            if pid == 0:
                self._task.run(self._listener, theirs.detach(), self._descriptors)
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        if self._crowd is not None:
            self._crowd.placed(pid)
        worker = self._workers[pid] = WorkerLink(pid, mine.detach())
        self._starting += 1
        self._loop.add_reader(worker.reports, lambda: self._listen_to(worker))

    def _listen_to(self, worker: WorkerLink) -> None:
        if self._hear(worker) is False:
            self._loop.remove_reader(worker.reports)  # its end closes first; SIGCHLD tells the rest

    def _hear(self, worker: WorkerLink) -> bool | None:
        """Take one record; None when there is none now, false when there will be none."""
        try:
            record = os.read(worker.reports, RECORD_MAX)
        except BlockingIOError:
            return None
        except OSError:
            return False
        self._obey(worker, record[:1], record[1:])
        return bool(record)

    def _obey(self, worker: WorkerLink, kind: bytes, text: bytes) -> None:
        if kind == b"C" and not worker.active:
            worker.active = True
            self._events.began(text)
        elif kind == b"L":
            self._events.said(text)
        elif kind == b"E" and worker.active and len(text) == STATUS.size:
            worker.active = False
            self._events.ended(worker.pid, STATUS.unpack(text)[0])
        elif kind == b"R" and not worker.ready:
            worker.ready = True
            self._starting -= 1
            self._watch()
        elif kind == b"I" and sum(not other.retiring for other in self._workers.values()) > 1:
            self._retire(worker)
        elif kind == b"O":
            self._events.outdated()

    def _retire(self, worker: WorkerLink) -> None:
        worker.retiring = True
        try:
            os.write(worker.reports, b"X")
        except OSError:
            return
