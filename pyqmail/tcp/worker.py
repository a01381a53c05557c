"""A worker of tcpserver: it waits in the listener's queue, takes a connection and serves it (tcp/workers)."""

import _socket
import fcntl
import os
import select
import signal
import socket
import struct
import time

from pyqmail.control import Control
from pyqmail.stream.standard import Standard, client_socket, take
from pyqmail.system.accepting import accept_number
from pyqmail.system.file_cache import FileCache
from pyqmail.tcp.connection_log import ConnectionLog, Peer, Serve, write_log

STATUS = struct.Struct("<i")
RECORD_MAX = 8192


class WorkerLife(ConnectionLog):
    """A worker's life: wait in the listener's queue, take a connection, serve it."""

    def __init__(self, listener: socket.socket, reports: int, serve: Serve, *, logs: bool) -> None:
        self._listener = listener
        self._family = int(listener.family)
        self._reports = reports
        self._serve = serve
        self._logs = logs
        self._connection: _socket.socket | None = None  # on 0, whichever is there
        self._ready = False
        self._announced = False
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        Control.cache = FileCache()
        Standard.writer = 0

    def run(self, served_max: int, idle_s: float) -> None:
        """Serve until told to end, or until ``served_max`` connections are done."""
        queue = select.epoll()
        queue.register(self._listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        queue.register(self._reports, select.EPOLLIN)
        self._watch_parent()
        served = 0
        patience = 0.0  # the first wait is none: what made the parent fork may be waiting
        while served < served_max:
            ready = dict(queue.poll(patience))  # by descriptor
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

    def _accept(self) -> tuple[int, Peer] | None:
        """The next connection; None when somebody else took it, or the client has gone."""
        try:
            fd, address = accept_number(self._listener)
            return fd, address[:2]
        except (BlockingIOError, ConnectionError):
            return None
        except OSError:
            if self._listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0:
                os._exit(0)  # the parent has closed the door
            time.sleep(0.1)  # no descriptor or no memory to spare: the connection waits
            return None

    def _one(self, fd: int, peer: Peer) -> None:
        take(fd)
        if self._connection is None:
            self._connection = client_socket(self._family)
        self._announced = False
        code = self._serve(self._connection, peer, self)
        os.close(0)  # for the next connection
        if self._logs:
            self._report(b"E" + STATUS.pack(code << 8))

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
