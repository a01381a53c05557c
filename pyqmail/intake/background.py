"""Bounces into the queue, from the loop: through qmail-queued, or $QMAILQUEUE executed (qmail-queue(8), callers).

No thread and no fork: the message goes into a pipe as the pipe takes it, and the answer is a readable descriptor.  So
any number of injections are under way at once, and a queue that is slow with one of them keeps nothing else waiting.
posix_spawn is no fork in the sense that matters here: no code of ours runs in the child, so the thread that sits in
fsync cannot have left a lock behind there.
"""

import fcntl
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from pyqmail.envelope import format_envelope
from pyqmail.exits import QueueExit
from pyqmail.intake import client
from pyqmail.spool.layout import Layout
from pyqmail.system.loop import Loop

AT_ONCE = 10
PIPE_LOW = 16  # the descriptors of a child are arranged from here on down
WAIT_S = 0.05  # between two looks at a child that no descriptor tells of
NOT_STARTED = -2  # in place of an exit code: there was nobody to give the message to
Done = Callable[[int, int], None]


class BackgroundInjection:
    """One bounce on its way: its bytes, its envelope, and then the answer."""

    def __init__(self, loop: Loop, message: Iterator[bytes], envelope: bytes, done: Done, facts: bytes = b"") -> None:
        self._loop = loop
        self._message = message
        self._envelope = envelope
        self._done = done
        self._facts = facts
        self._failed = False
        self._rest = b""
        self._pipes: deque[int] = deque()
        self._socket: socket.socket | None = None
        self._child = 0
        self._watched = -1

    # who takes it

    def hand_to_service(self, sock: socket.socket) -> None:
        """Give qmail-queued, at the other end of ``sock``, two pipes, and begin. Raises OSError."""
        message, envelope = self._make_pipes()
        given = client.hand_over(sock, message, envelope, serial=True, facts=self._facts)
        os.close(message)
        os.close(envelope)
        if not given:  # it would wait half a minute for what does not come
            self._drop_pipes()
            raise ConnectionError
        self._socket = sock
        self._loop.add_reader(sock.fileno(), self._answered)
        self._loop.add_writer(self._pipes[0], self._write)

    def hand_to_program(self, program: bytes, home: str, environ: Mapping[bytes, bytes]) -> None:
        """Execute ``program`` in ``home`` with the pipes on 0 and 1, and begin. Raises OSError."""
        message, envelope = self._make_pipes()
        try:
            known = {**environ, client.FACTS: self._facts} if self._facts else environ
            self._child = _spawn(program, home, known, message, envelope)
        except OSError:
            self._drop_pipes()
            raise
        finally:
            os.close(message)
            os.close(envelope)
        try:
            self._watched = os.pidfd_open(self._child)
        except OSError:
            self._loop.call_later(WAIT_S, self._exited)
        else:
            self._loop.add_reader(self._watched, self._exited)
        self._loop.add_writer(self._pipes[0], self._write)

    def _make_pipes(self) -> tuple[int, int]:
        ends: list[int] = []
        for _ in range(2):
            try:
                reader, writer = os.pipe2(os.O_CLOEXEC)
            except OSError:
                for fd in ends:
                    os.close(fd)
                self._drop_pipes()
                raise
            os.set_blocking(writer, False)
            ends.append(reader)
            self._pipes.append(writer)
        return ends[0], ends[1]

    def _drop_pipes(self) -> None:
        """Close what the loop does not watch yet."""
        while self._pipes:
            os.close(self._pipes.popleft())

    # writing: the message into the first pipe, then the envelope into the second

    def _write(self) -> None:
        try:
            piece = self._rest or next(self._message, None)
            if piece is not None:
                self._rest = piece
                self._rest = piece[os.write(self._pipes[0], piece) :]
                return
        except BlockingIOError:
            return
        except OSError:  # of the file as well as of the pipe: without its envelope the message is not queued
            self._failed = True
            self._close_pipes()
            return
        self._next_pipe()

    def _next_pipe(self) -> None:
        fd = self._pipes.popleft()
        self._loop.remove_writer(fd)
        os.close(fd)
        if self._pipes:
            self._rest = self._envelope
            self._loop.add_writer(self._pipes[0], self._write_envelope)

    def _write_envelope(self) -> None:
        try:
            self._rest = self._rest[os.write(self._pipes[0], self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._failed = True
            self._close_pipes()
            return
        if not self._rest:
            self._next_pipe()

    def _close_pipes(self) -> None:
        while self._pipes:
            fd = self._pipes.popleft()
            self._loop.remove_writer(fd)
            os.close(fd)

    # the answer

    def _answered(self) -> None:
        assert self._socket is not None
        self._loop.remove_reader(self._socket.fileno())
        status, number = client.answer_of(self._socket)
        self._socket.close()
        self._over(status, number)

    def _exited(self) -> None:
        try:
            child, status = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:
            child, status = self._child, QueueExit.NEXT_HOP_TEMPORARY << 8
        if not child:
            if self._watched < 0:
                self._loop.call_later(WAIT_S, self._exited)
            return
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            os.close(self._watched)
        self._over(os.waitstatus_to_exitcode(status), self._child)

    def _over(self, status: int, number: int) -> None:
        whole = not self._failed and not self._pipes
        self._close_pipes()
        self._done(QueueExit.READ_ERROR if status == QueueExit.DONE and not whole else status, number)


def _spawn(program: bytes, home: str, environ: Mapping[bytes, bytes], message: int, envelope: int) -> int:
    """The pid of ``program`` with the message on 0, the envelope on 1, and none of our pipes. Raises OSError."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, PIPE_LOW) for fd in (message, envelope)]
    null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(high)]
    actions += [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (2, 6)]  # nobody reads what is said there
    closing = [(os.POSIX_SPAWN_CLOSE, fd) for fd in (3, 4, 5)]
    try:
        os.chdir(home)
        return os.posix_spawn(
            program,
            [program],
            dict(environ),
            file_actions=[*actions, *closing],
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    finally:
        os.fchdir(before)
        for fd in (*high, null, before):
            os.close(fd)


class BackgroundInjections:
    """Starts injections, a few at a time; ``pending`` are under way."""

    def __init__(self, loop: Loop, layout: Layout, environ: Mapping[bytes, bytes]) -> None:
        self._loop = loop
        self._layout = layout
        self._environ = environ
        self.pending = 0

    @property
    def full(self) -> bool:
        """Whether another injection has to wait."""
        return self.pending >= AT_ONCE

    def inject(
        self, message: Iterator[bytes], sender: bytes, recipient: bytes, done: Done, *, facts: bytes = b""
    ) -> None:
        """Queue ``message``; ``done`` gets qmail-queue's exit code (CRASHED or NOT_STARTED in its place) and number.

        ``facts`` as in formats/facts.
        """
        self.pending += 1

        def over(status: int, number: int) -> None:
            self.pending -= 1
            done(status, number)

        injection = BackgroundInjection(self._loop, message, format_envelope(sender, (recipient,)), over, facts)
        program = self._environ.get(b"QMAILQUEUE")
        if program is None and client.own_program(self._layout.home):
            self._connect(injection, over, time.monotonic() + client.CONNECT_SECONDS)
        else:
            self._execute(injection, over, program or os.fsencode(self._layout.home) + b"/bin/qmail-queue")

    def _execute(self, injection: BackgroundInjection, over: Done, program: bytes) -> None:
        try:
            injection.hand_to_program(program, self._layout.home, self._environ)
        except FileNotFoundError:
            over(QueueExit.EXEC_FAILED, 0)
        except OSError:
            over(NOT_STARTED, 0)

    def _connect(self, injection: BackgroundInjection, over: Done, deadline: float) -> None:
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            over(NOT_STARTED, 0)
            return
        sock.setblocking(False)
        if sock.connect_ex(self._layout.run_own_socket) == 0 or sock.connect_ex(self._layout.run_socket) == 0:
            try:
                injection.hand_to_service(sock)
            except OSError:
                sock.close()
                over(NOT_STARTED, 0)
            return
        sock.close()
        program = self._layout.home + "/bin/qmail-queue"
        if client.own_queue(self._layout.home) and os.path.exists(program):
            self._execute(injection, over, os.fsencode(program))  # it writes the queue itself
        elif time.monotonic() >= deadline:
            over(NOT_STARTED, 0)
        else:
            self._loop.call_later(client.RETRY_SECONDS, lambda: self._connect(injection, over, deadline))
