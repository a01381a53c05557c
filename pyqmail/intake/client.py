"""Handing a message to the queue, seen from the program that has it (qmail-queue(8), "caller side").

Three ways lead to qmail-queued's socket: bin/qmail-queue passes its own descriptors 0 and 1, and an Injection sends a
small message in its request, or passes the read ends of two pipes. $QMAILQUEUE, or a bin/qmail-queue that is not ours,
is executed instead.
"""

import _socket
import errno
import os
import sys
import time

from pyqmail.exits import QueueExit, queue_answer
from pyqmail.protocol import queued

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyqmail.intake.child import Child
    from pyqmail.intake.pipes import Pipes
    from pyqmail.system.stamp import Watched

CONNECT_SECONDS = 10  # how long connect is retried
RETRY_SECONDS = 0.05
RETRIED = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)
TOO_LONG = (errno.EMSGSIZE, errno.ENOBUFS)
HELD_MAX = 49152  # message bytes that wait for their end before the service hears of them
FACTS = b"QMAILFACTS"  # in the environment: what is to be known beside the envelope (formats/facts)
CUSTOM = (QueueExit.CUSTOM, QueueExit.CUSTOM_ERROR)
NOT_UNDERSTOOD = (QueueExit.BUG, 0)  # the answer to a request that is none: nothing was taken


class RecordTooLong(Exception):
    """The socket takes no record of that length: nothing was sent."""


class Connection(_socket.socket):
    """A connection to qmail-queued, for one submission."""

    own = False  # by the socket of our own warm programs
    number = 0  # of the submission, once the answer has come

    def send_whole(self, record: bytes) -> bool:
        """Send a request with all in it; false when the service is gone. Raises RecordTooLong."""
        try:
            if self.own:
                self.send(record, _socket.MSG_NOSIGNAL)
            else:
                self.sendmsg([record], [_our_ids()], _socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno in TOO_LONG:
                raise RecordTooLong from None
            return False
        return True

    def status(self) -> int:
        """The exit code that is the answer; the connection is closed then."""
        status, self.number = answer_of(self)
        self.close()
        return status

    def error_text(self) -> None:
        """The service has no text of its own."""
        return None


def connect(
    path: str, seconds: float, own: str = "", *, gives_up: "Callable[[], bool]" = lambda: False
) -> Connection | None:
    """A connection to qmail-queued, tried for at most ``seconds``, and once by who ``gives_up``; None without one.

    ``own`` is the socket of our own warm programs, tried first each time: who may not use it, or finds nobody there,
    goes the way of everybody.
    """
    deadline = time.monotonic() + seconds
    try:
        sock = Connection(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    except OSError:
        return None
    patience = max(1, int(seconds)).to_bytes(8, sys.byteorder) + bytes(8)  # struct timeval
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, patience)
    while True:
        try:
            if own and _connected(sock, own):
                return sock
            sock.connect(path)
            return sock
        except OSError as error:
            if error.errno not in RETRIED or time.monotonic() >= deadline or gives_up():
                sock.close()
                return None
        time.sleep(RETRY_SECONDS)


def _connected(sock: Connection, path: str) -> bool:
    try:
        sock.connect(path)
    except OSError:
        return False
    sock.own = True
    return True


def hand_over(sock: "_socket.socket", message: int, envelope: int, *, serial: bool, facts: bytes = b"") -> bool:
    """Pass both descriptors, our real ids and ``facts`` to the service; false when it is gone. Never repeated."""
    rights = message.to_bytes(4, sys.byteorder) + envelope.to_bytes(4, sys.byteorder)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights), _our_ids()]
    try:
        sock.sendmsg([queued.format_request(serial=serial, facts=facts)], ancillary, _socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def _our_ids() -> tuple[int, int, bytes]:
    ids = queued.format_credentials(os.getpid(), os.getuid(), os.getgid())
    return _socket.SOL_SOCKET, _socket.SCM_CREDENTIALS, ids


def answer_of(sock: "_socket.socket") -> tuple[int, int]:
    """Exit code and submission number from the service; a lost answer is 74."""
    try:
        answer = queued.parse_answer(sock.recv(64))
    except OSError:
        answer = None
    return (QueueExit.CONNECTION_BROKE, 0) if answer is None else answer


def own_queue(home: str) -> bool:
    """Whether our effective user owns the queue: qmailq, or anyone in a single-user tree of theirs."""
    return _owns_queue(os.geteuid(), home)


def may_write_queue(home: str) -> bool:
    """Whether our effective user owns the queue, or is root."""
    user = os.geteuid()
    return user == 0 or _owns_queue(user, home)


def _owns_queue(user: int, home: str) -> bool:
    try:
        return os.stat(home + "/queue").st_uid == user
    except OSError:
        return False


class Answer:
    """What became of a submission: qmail-queue's exit code (CRASHED for a signal), its number, its own text if any."""

    __slots__ = ("number", "status", "text")

    def __init__(self, status: int, number: int, text: bytes | None = None) -> None:
        self.status = status
        self.number = number
        self.text = text

    def letter_text(self) -> tuple[bytes, bytes]:
        """K, D or Z, and the text for people."""
        if self.status in CUSTOM and self.text is not None:
            return (b"D" if self.text[:1] == b"D" else b"Z"), self.text[1:]
        return queue_answer(self.status)


class Injection:
    """One message on its way to qmail-queue: write the message, then close with the envelope, or fail and close.

    Every path ends in ``close`` or ``abort``. Neither these nor writing ever raise; the answer tells. The service hears
    of a message when it is whole or no longer small, so that a slow sender holds nothing but the sender's own process,
    and a worker of the service finds all of a small message at once.
    """

    _home = ""
    _environ: "Mapping[bytes, bytes]" = {}
    _serial = False
    _before_child: "Callable[[], None] | None" = None
    _held: "list[bytes] | None" = None  # the message so far, while nobody has heard of it
    _failed = False
    _pipes: "Pipes | None" = None
    _peer: "Connection | Child | None" = None  # who has heard of it
    _answer: int = QueueExit.NO_MEMORY  # where there is nobody

    @classmethod
    def open(
        cls,
        home: str,
        environ: "Mapping[bytes, bytes]",
        *,
        warm: bool = False,
        direct: bool = False,
        before_child: "Callable[[], None] | None" = None,
    ) -> "Injection":
        """Start a submission. ``warm`` callers serve many messages in one process and get serials; ``direct`` ones
        send a single message in their life and are named by their own pid. ``before_child`` is called before there is
        a child, and may raise OSError. Raises OSError without descriptors or processes."""
        self = cls()
        self._home, self._environ, self._serial, self._before_child = home, environ, warm, before_child
        other = environ.get(b"QMAILQUEUE")
        if other is None and (warm or direct) and own_program(home, warm=warm):
            self._held = []
        else:
            from pyqmail.intake.child import execute

            program = other or os.fsencode(home) + b"/bin/qmail-queue"
            self._start_child(lambda pipes: execute(pipes, home, environ, program))
        return self

    def write(self, data: "bytes | bytearray | memoryview") -> None:
        """Add to the message. Never raises: a failure is remembered and told by ``close``."""
        if not self._failed:
            try:
                self._write(data)
            except (OSError, MemoryError):
                self._failed, self._held = True, None

    def _write(self, data: "bytes | bytearray | memoryview") -> None:
        if self._held is not None:
            self._held.append(bytes(data))
            if sum(map(len, self._held)) <= HELD_MAX:
                return
            data, self._held = b"".join(self._held), None
            self._begin()
        self._failed = self._pipes is None or not self._pipes.write_message(data)

    def fail(self) -> None:
        """Withhold the envelope: qmail-queue will not commit."""
        self._failed = True

    def close(self, sender: bytes, recipients: "Sequence[bytes]") -> Answer:
        """End the message, send the envelope (not after a failure) and wait for the answer. Never raises: without
        descriptors, processes or memory the answer is a temporary one."""
        try:
            return self._close(sender, recipients)
        except (OSError, MemoryError):
            self.abort()
            return Answer(QueueExit.NO_MEMORY, 0)

    def _close(self, sender: bytes, recipients: "Sequence[bytes]") -> Answer:
        from pyqmail.envelope import format_envelope

        envelope = b"" if self._failed else format_envelope(sender, tuple(recipients))
        if self._held is not None:
            held, self._held = b"".join(self._held), None
            if self._failed:
                return Answer(QueueExit.READ_ERROR, 0)
            answer = self._submit(held, envelope)
            if answer is not None:
                return answer
            self._failed = self._pipes is None or not self._pipes.write_message(held)
        if self._pipes is not None:
            self._pipes.end_message()
            self._failed = self._failed or not self._pipes.write_envelope(envelope)
            self._pipes.close()
        answer = self._wait()
        if answer.status == QueueExit.DONE and self._failed:
            answer.status = QueueExit.READ_ERROR
        return answer

    def _submit(self, message: bytes, envelope: bytes) -> Answer | None:
        """Have the service take all that there is; None when there is no service."""
        record = queued.format_whole(message, envelope, serial=self._serial, facts=self._facts())
        connection = self._reach()
        if connection is not None and record is not None:
            try:
                answer = self._wait() if connection.send_whole(record) else self._broken()
            except RecordTooLong:
                return self._submit_pipes(connection, message, envelope)
            if (answer.status, answer.number) != NOT_UNDERSTOOD:
                return answer
            connection = self._reach()  # the service is of an older build, until it is started anew
        return None if connection is None else self._submit_pipes(connection, message, envelope)

    def _submit_pipes(self, connection: Connection, message: bytes, envelope: bytes) -> Answer:
        """Hand over pipes in which all that they take lies already, then write what they did not take."""
        pipes = self._open_pipes()
        rests = pipes.fill(message, envelope)
        if not self._hand_over(connection, pipes):
            return self._broken()
        if rests[0]:
            pipes.write_message(rests[0])
            pipes.end_message()
        if rests[1]:
            pipes.write_envelope(rests[1])
        pipes.close()
        return self._wait()

    def _begin(self) -> None:
        """The service hears of a message that is not whole yet."""
        connection = self._reach()
        if connection is None:
            return
        try:
            pipes = self._open_pipes()
        except OSError:
            self.abort()
            return
        if not self._hand_over(connection, pipes):
            self._answer = self._broken().status

    def _open_pipes(self) -> "Pipes":
        from pyqmail.intake.pipes import Pipes  # a small message needs none

        self._pipes = pipes = Pipes()
        return pipes

    def _hand_over(self, connection: Connection, pipes: "Pipes") -> bool:
        sent = hand_over(connection, *pipes.ends, serial=self._serial, facts=self._facts())
        pipes.passed_on()
        return sent

    def _facts(self) -> bytes:
        return self._environ.get(FACTS, b"")

    def _reach(self) -> Connection | None:
        """A connection to the service; None when a child of ours writes the queue, or the answer is known already."""
        run, home = self._home + "/run/qmail-queued.", self._home
        own = run + "own" if self._serial else ""
        connection = connect(run + "sock", CONNECT_SECONDS, own, gives_up=lambda: may_write_queue(home))
        self._peer = connection
        if connection is None and may_write_queue(home):
            from pyqmail.intake.child import write_queue

            try:
                self._start_child(lambda pipes: write_queue(pipes, self._environ, self._facts()))
            except OSError:
                self._answer = QueueExit.NO_MEMORY
        elif connection is None:
            self._answer = QueueExit.CONNECT_REFUSED
        return connection

    def _start_child(self, start: "Callable[[Pipes], Child]") -> None:
        """Raises OSError without descriptors."""
        if self._before_child is not None:
            self._before_child()
        pipes = self._open_pipes()
        try:
            self._peer = start(pipes)
        except OSError:
            pipes.close()
            raise

    def _wait(self) -> Answer:
        """The answer of who has heard of the message."""
        peer, self._peer = self._peer, None
        if peer is None:
            return Answer(self._answer, 0)
        text = peer.error_text()
        status = peer.status()
        return Answer(status, peer.number, text)

    def _broken(self) -> Answer:
        self.abort()
        return Answer(QueueExit.CONNECTION_BROKE, 0)

    def abort(self) -> None:
        """Give the message up without an answer; harmless after ``close``."""
        self._failed = True
        self._held = None
        if self._pipes is not None:
            self._pipes.close()
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.close()


_launchers: "dict[str, Watched[bool]]" = {}  # whether that of a home is ours


def own_program(home: str, *, warm: bool = False) -> bool:
    """Whether HOME/bin/qmail-queue is this copy's (or absent, as in a tree without programs): no need to run it.

    A ``warm`` caller asks for each of many messages: an unchanged launcher is not read again.
    """
    if not warm:
        from pyqmail.launch import identify

        path = home + "/bin/qmail-queue"
        return not os.path.lexists(path) or identify(path) == "pyqmail.programs.qmail_queue"
    if home not in _launchers:
        from pyqmail.system.stamp import Seen, Watched

        # a no may come of a file that could not be read
        _launchers[home] = Watched(own_program, lambda home: Seen((home + "/bin/qmail-queue",)), lasts=bool)
    return _launchers[home].get(home)
