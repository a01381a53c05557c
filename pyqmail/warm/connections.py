"""tcpserver's pool: forked workers that serve one connection after another, and children for one connection only.

The parent accepts and passes the descriptor; the worker answers with a 4-byte wait status.  A worker that dies while
it has a connection is that connection's end, as a child that dies is under the original tcpserver.
"""

import gc
import os
import socket
import struct
import time
from collections.abc import Callable

from pyqmail.system.loop import Loop
from pyqmail.system.process import HIGHEST, reset_signals, set_title
from pyqmail.warm.wire import pair, receive_record, send_record

STATUS = struct.Struct("<i")

Ended = Callable[[int, int], None]  # pid and wait status


class _Worker:
    __slots__ = ("ended", "idle_since", "pid", "served", "sock", "status")

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.sock = sock
        self.served = 0
        self.idle_since = 0.0
        self.ended: Ended | None = None
        self.status: int | None = None  # once it was collected


class Connections:
    """``serve(connection) -> exit code`` in workers; it owns the descriptor. A worker retires in time."""

    def __init__(
        self, loop: Loop, serve: Callable[[int], int], *, title: str, served_max: int = 1000, idle_s: float = 60.0
    ) -> None:
        self._loop = loop
        self._serve = serve
        self._title = title
        self._served_max = served_max
        self._idle_s = idle_s
        self._idle: list[_Worker] = []
        self._children: dict[int, Ended] = {}
        self._live: dict[int, _Worker] = {}
        self._sweeping = False

    def serve_warm(self, connection: int, ended: Ended) -> None:
        """Give ``connection`` to a worker; the caller closes its own copy. Raises OSError if no worker can be made."""
        while True:
            fresh = not self._idle
            worker = self._idle.pop() if self._idle else self._fork()
            try:
                send_record(worker.sock, b"C", (connection,))
            except OSError:
                self._discard(worker)
                if fresh:
                    raise
                continue
            worker.ended = ended
            return

    def serve_cold(self, connection: int, ended: Ended) -> None:
        """Fork a child for this connection alone. Raises OSError."""
        pid = os.fork()
        if pid == 0:
            code = 111
            try:
                _forget_parent(connection)
                code = self._serve(connection)
            finally:
                os._exit(code)
        self._children[pid] = ended

    def reap(self) -> None:
        """Collect the dead; call it when SIGCHLD comes."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self._children.pop(pid, None)
            if ended is not None:
                ended(pid, status)
            elif pid in self._live:
                self._live[pid].status = status  # its job socket tells us next

    def _fork(self) -> _Worker:
        mine, theirs = pair()
        try:
            pid = os.fork()
        except OSError:
            mine.close()
            theirs.close()
            raise
        if pid == 0:
            self._child(theirs)
        theirs.close()
        worker = self._live[pid] = _Worker(pid, mine)
        self._loop.add_reader(mine.fileno(), lambda: self._heard(worker))
        return worker

    def _child(self, sock: socket.socket) -> None:
        code = 111
        try:
            gc.disable()
            _forget_parent(sock.fileno())
            gc.enable()
            set_title(self._title)
            self._idle, self._children, self._live = [], {}, {}
            while True:
                try:
                    record = receive_record(sock)
                except OSError:
                    record = None
                if record is None or len(record[1]) != 1:
                    os._exit(0)
                code = self._serve(record[1][0])
                sock.send(STATUS.pack(code << 8), socket.MSG_NOSIGNAL)
                code = 111
        except BrokenPipeError:
            code = 0  # the server has gone, and left us to finish
        finally:
            os._exit(code)

    def _heard(self, worker: _Worker) -> None:
        """A status, or the end of the worker; descriptors a worker might send are not even received."""
        try:
            answer = worker.sock.recv(64)
        except OSError:
            answer = b""
        ended, worker.ended = worker.ended, None
        if len(answer) != STATUS.size or ended is None:
            self._discard(worker, ended)
            return
        worker.served += 1
        if worker.served >= self._served_max:
            self._discard(worker)
        else:
            worker.idle_since = time.monotonic()
            self._idle.append(worker)
            self._sweep_later()
        ended(worker.pid, STATUS.unpack(answer)[0])

    def _discard(self, worker: _Worker, ended: Ended | None = None) -> None:
        """Close the job socket, which ends an idle worker; its wait status goes to ``ended``."""
        if worker in self._idle:
            self._idle.remove(worker)
        self._loop.remove_reader(worker.sock.fileno())
        worker.sock.close()
        self._live.pop(worker.pid, None)
        if ended is None:
            return
        if worker.status is not None:
            ended(worker.pid, worker.status)
        else:
            self._children[worker.pid] = ended
            self.reap()

    def _sweep_later(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self._idle_s / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        limit = time.monotonic() - self._idle_s
        for worker in [worker for worker in self._idle if worker.idle_since <= limit]:
            self._discard(worker)
        if self._idle:
            self._sweep_later()


def _forget_parent(keep: int) -> None:
    """A fresh child keeps one descriptor above 2 and the log; 0 and 1 become /dev/null until a connection is there."""
    os.closerange(3, keep)
    os.closerange(keep + 1, HIGHEST)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    reset_signals()
