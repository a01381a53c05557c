"""tcpserver's two ways to serve connections: workers that accept for themselves, and a child for each connection.

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

import fcntl
import os
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable

from pyqmail.control import Control, Kept
from pyqmail.system.logpipe import LogWriter
from pyqmail.system.loop import Loop
from pyqmail.system.process import close_all_but, reset_signals, set_title

STATUS = struct.Struct("<i")
TCP_INFO_UNACKED = 24  # of a listening socket: how many connections wait to be accepted (linux/tcp.h)
BURST = 16  # workers forked in one go
RETRY_S = 0.5  # after a fork that failed, or a worker that died before it was ready
RECORD_MAX = 8192
FAILED = 111
OTHER_DESCRIPTORS = 32  # that the parent has beside one for each worker

Peer = tuple[str, int]  # the client's address and port
Serve = Callable[[socket.socket, Peer, "Voice"], int]  # owns the connection, and it is on 0 and 1; the exit code
Ended = Callable[[int, int], None]  # pid and wait status


class Voice:
    """What serves a connection speaks through this: to the log, in one write each."""

    def log(self, text: bytes) -> None:
        """Log ``text``, whole lines."""
        write_log(text)

    def outdated(self) -> None:
        """Say that the program should be executed from now on; it is the last that is said."""


class _Worker:
    __slots__ = ("active", "pid", "ready", "reports", "retiring")

    def __init__(self, pid: int, reports: int) -> None:
        self.pid = pid
        self.reports = reports  # a bare number: a fresh child must not close it by forgetting an object
        self.ready = False
        self.active = False
        self.retiring = False


class Workers:
    """``serve`` in workers that accept from ``listener``, at most ``limit`` of them.

    With ``logs`` each connection is announced: ``began(text)`` and ``ended(pid, status)`` are called in the parent, and
    ``said(text)`` for what is to be logged in between. ``outdated()`` is called when a worker found that the program
    has changed, and ``troubled(error)`` when no worker can be made.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        serve: Serve,
        *,
        limit: int,
        title: str,
        logs: bool,
        began: Callable[[bytes], None],
        said: Callable[[bytes], None],
        ended: Ended,
        outdated: Callable[[], None],
        troubled: Callable[[OSError], None],
        served_max: int = 1000,
        idle_s: float = 60.0,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._serve = serve
        self._limit = limit
        self._title = title
        self._logs = logs
        self._began = began
        self._said = said
        self._ended = ended
        self._outdated = outdated
        self._troubled = troubled
        self._served_max = served_max
        self._idle_s = idle_s
        self._workers: dict[int, _Worker] = {}
        self._starting = 0
        self._stopped = False
        self._watching = False
        self._overflow = select.epoll()
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)

    def start(self) -> None:
        """Make the first worker; call ``reap`` when SIGCHLD comes."""
        soft, hard = self._descriptors
        needed = self._limit + OTHER_DESCRIPTORS
        if soft != resource.RLIM_INFINITY and soft < needed:
            wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))  # for this process: workers keep what was given
        self._loop.add_reader(self._overflow.fileno(), self._all_busy)
        self._grow(1)

    def stop(self) -> None:
        """Take no more connections; workers end when they have finished theirs."""
        self._stopped = True
        self._unwatch()
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
        self._loop.remove_reader(worker.reports)
        os.close(worker.reports)
        if worker.active:
            self._ended(pid, status)
        if not worker.ready:
            self._starting -= 1
            self._loop.call_later(RETRY_S, self._watch)
        elif not self._workers:
            self._grow(1)
        else:
            self._watch()
        return True

    def _watch(self) -> None:
        """Stand last in the listener's queue, behind every worker."""
        self._unwatch()
        if not self._stopped and self._starting == 0 and len(self._workers) < self._limit:
            self._overflow.register(self._listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
            self._watching = True

    def _unwatch(self) -> None:
        if self._watching:
            self._overflow.unregister(self._listener.fileno())
            self._watching = False

    def _all_busy(self) -> None:
        """Somebody waits whom no worker was free to take; by now one may be."""
        info = self._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_UNACKED + 4)
        (waiting,) = struct.unpack_from("=I", info, TCP_INFO_UNACKED)
        if waiting:
            self._grow(min(waiting + len(self._workers) // 8, BURST))  # a few more: where some come others follow

    def _grow(self, wanted: int) -> None:
        self._unwatch()
        if self._stopped:
            return
        for _ in range(min(wanted, self._limit - len(self._workers))):
            try:
                self._fork()
            except OSError as error:
                self._troubled(error)
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
            pid = os.fork()
            if pid == 0:
                self._child(theirs.detach())
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        worker = self._workers[pid] = _Worker(pid, mine.detach())
        self._starting += 1
        self._loop.add_reader(worker.reports, lambda: self._listen_to(worker))

    def _listen_to(self, worker: _Worker) -> None:
        if self._hear(worker) is False:
            self._loop.remove_reader(worker.reports)  # its end closes first; SIGCHLD tells the rest

    def _hear(self, worker: _Worker) -> bool | None:
        """Take one record; None when there is none now, false when there will be none."""
        try:
            record = os.read(worker.reports, RECORD_MAX)
        except BlockingIOError:
            return None
        except OSError:
            return False
        self._obey(worker, record[:1], record[1:])
        return bool(record)

    def _obey(self, worker: _Worker, kind: bytes, text: bytes) -> None:
        if kind == b"C" and not worker.active:
            worker.active = True
            self._began(text)
        elif kind == b"L":
            self._said(text)
        elif kind == b"E" and worker.active and len(text) == STATUS.size:
            worker.active = False
            self._ended(worker.pid, STATUS.unpack(text)[0])
        elif kind == b"R" and not worker.ready:
            worker.ready = True
            self._starting -= 1
            self._watch()
        elif kind == b"I" and sum(not other.retiring for other in self._workers.values()) > 1:
            self._retire(worker)
        elif kind == b"O":
            self._outdated()

    def _retire(self, worker: _Worker) -> None:
        worker.retiring = True
        try:
            os.write(worker.reports, b"X")
        except OSError:
            return

    def _child(self, reports: int) -> None:
        """What a fresh worker does; it never returns."""
        code = FAILED
        try:
            close_all_but((0, 1, 2, reports, self._listener.fileno()))
            resource.setrlimit(resource.RLIMIT_NOFILE, self._descriptors)
            reset_signals()
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            set_title(self._title)
            _Queue(self._listener, reports, self._serve, logs=self._logs).run(self._served_max, self._idle_s)
            code = 0
        finally:
            os._exit(code)


class _Queue(Voice):
    """A worker's life: wait in the listener's queue, take a connection, serve it."""

    def __init__(self, listener: socket.socket, reports: int, serve: Serve, *, logs: bool) -> None:
        self._listener = listener
        self._reports = reports
        self._serve = serve
        self._logs = logs
        self._ready = False
        self._announced = False
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._directory = os.open(".", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            self._directory = -1  # we may not search it
        self._umask = os.umask(0o22)
        os.umask(self._umask)
        Control.kept = Kept()

    def run(self, served_max: int, idle_s: float) -> None:
        """Serve until told to end, or until ``served_max`` connections are done."""
        queue = select.epoll()
        queue.register(self._listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        queue.register(self._reports, select.EPOLLIN)
        self._watch_parent()
        served = 0
        patience = 0.0  # the first wait is none: what made the parent fork may be waiting
        while served < served_max:
            ready = [fd for fd, _ in queue.poll(patience)]
            patience = idle_s
            if self._reports in ready:
                return
            connection = self._accept() if ready else None
            if not self._ready:
                self._ready = True
                self._report(b"R")
            elif not ready:
                self._report(b"I")
            if connection is not None:
                self._one(*connection)
                served += 1

    def _accept(self) -> tuple[socket.socket, Peer] | None:
        """The next connection; None when somebody else took it, or the client has gone."""
        try:
            connection, address = self._listener.accept()
            return connection, address[:2]
        except (BlockingIOError, ConnectionError):
            return None
        except OSError:
            if self._listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0:
                os._exit(0)  # the parent has closed the door
            time.sleep(0.1)  # no descriptor or no memory to spare: the connection waits
            return None

    def _one(self, connection: socket.socket, peer: Peer) -> None:
        os.dup2(connection.fileno(), 0)
        os.dup2(connection.fileno(), 1)
        self._announced = False
        code = self._serve(connection, peer, self)
        os.dup2(self._null, 0)
        os.dup2(self._null, 1)
        if self._logs:
            self._report(b"E" + STATUS.pack(code << 8))
        try:
            os.fchdir(self._directory)
        except OSError:
            pass  # paths that we keep are absolute
        os.umask(self._umask)

    def log(self, text: bytes) -> None:
        """Hand ``text`` to the parent, which logs it after what announces the connection."""
        if not self._logs:
            write_log(text)
            return
        self._report((b"L" if self._announced else b"C") + text[: RECORD_MAX - 1])
        self._announced = True

    def outdated(self) -> None:
        """Tell the parent, and hear from it no more: it answers, and SIGIO would end a program without a handler."""
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        self._report(b"O")
        os.close(self._reports)

    def _report(self, record: bytes) -> None:
        try:
            os.write(self._reports, record)
        except BrokenPipeError:
            pass  # the parent has gone, and left us to finish

    def _watch_parent(self) -> None:
        """Have SIGIO sent when the parent has gone, so that the port is free while a connection goes on."""

        def heard(_signum: int, _frame: object) -> None:
            try:
                with socket.socket(fileno=os.dup(self._reports)) as line:
                    gone = line.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
            except BlockingIOError:
                return
            if gone:
                os.dup2(self._null, self._listener.fileno())

        signal.signal(signal.SIGIO, heard)
        fcntl.fcntl(self._reports, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self._reports, fcntl.F_GETFL)
        fcntl.fcntl(self._reports, fcntl.F_SETFL, flags | os.O_ASYNC)


class Children:
    """A child for each connection, in which ``serve`` runs once, or executes a program."""

    def __init__(self, serve: Serve, ended: Ended) -> None:
        self._serve = serve
        self._ended = ended
        self._pids: set[int] = set()

    def count(self) -> int:
        """How many children there are."""
        return len(self._pids)

    def start(self, connection: socket.socket, peer: Peer) -> None:
        """Fork for ``connection``; the caller closes its own copy. Raises OSError."""
        pid = os.fork()
        if pid:
            self._pids.add(pid)
            return
        code = FAILED
        try:
            close_all_but((0, 1, 2, connection.fileno()))
            reset_signals()
            os.dup2(connection.fileno(), 0)
            os.dup2(connection.fileno(), 1)
            code = self._serve(connection, peer, Voice())
        finally:
            os._exit(code)

    def reap(self, pid: int, status: int) -> bool:
        """Note that child ``pid`` has ended; false when it was none of these."""
        if pid not in self._pids:
            return False
        self._pids.remove(pid)
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


_LOG = LogWriter(2, b"tcpserver")  # of this process; a child goes on with a copy


def write_log(text: bytes) -> None:
    """``text`` to descriptor 2 in one write; a log that fails, or takes nothing any more, stops no mail."""
    _LOG.write(text)
