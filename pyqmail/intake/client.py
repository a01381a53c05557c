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

from pyqmail.exits import CRASHED, NOT_WAITED, QueueExit, queue_answer
from pyqmail.protocol import queued

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyqmail.system.stamp import Watched

CONNECT_SECONDS = 10  # how long connect is retried
RETRY_SECONDS = 0.05
HELD_MAX = 49152  # message bytes that wait for their end before the service hears of them
PAGE = 4096  # what any pipe takes
ERROR_TEXT_MAX = 255  # bytes of its text that are read
FACTS = b"QMAILFACTS"  # in the environment: what is to be known beside the envelope (formats/facts)
TOO_LONG = (errno.EMSGSIZE, errno.ENOBUFS)
CUSTOM = (QueueExit.CUSTOM, QueueExit.CUSTOM_ERROR)
ERROR_FD = {b"ERROR_FD": b"6"}  # where a program that ends with 88 writes its text, unless it is told otherwise
NOT_UNDERSTOOD = (QueueExit.BUG, 0)  # the answer to a request that is none: nothing was taken
RETRIED = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)


class Connection(_socket.socket):
    """A connection to qmail-queued."""

    own = False  # by the socket of our own warm programs


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

    message = -1  # descriptor for the message bytes
    _envelope = -1
    _errors = -1  # read end of the child's fd 6
    _child = 0
    _number = 0
    _connection: "_socket.socket | None" = None
    _held: "list[bytes] | None" = None  # the message so far, while the service has not heard of it
    _home = ""
    _environ: "Mapping[bytes, bytes]" = {}
    _serial = False
    _answer: int | None = None  # decided before anything was written
    _failed = False
    _before_child: "Callable[[], None] | None" = None

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
        self._before_child = before_child
        other = environ.get(b"QMAILQUEUE")
        if other is None and (warm or direct) and own_program(home, warm=warm):
            self._held, self._home, self._environ, self._serial = [], home, environ, warm
        else:
            self._execute(home, environ, other or os.fsencode(home) + b"/bin/qmail-queue")
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
            data = self._stream()
        self._failed = not _written(self.message, data)

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

        if self._held is not None:
            held, self._held = b"".join(self._held), None
            if self._failed:
                return Answer(QueueExit.READ_ERROR, 0)
            envelope = format_envelope(sender, tuple(recipients))
            sock = self._reach()
            if sock is not None and (record := self._whole(held, envelope)) is not None:
                answer = self._submit_whole(sock, record)
                if answer is not None and (answer.status, answer.number) != NOT_UNDERSTOOD:
                    return answer
                if answer is not None:  # by a service of an older build, until that is started anew
                    sock = self._reach()
            if sock is not None:
                return self._submit_pipes(sock, held, envelope)
            self._failed = not _written(self.message, held)
        self._shut("message")
        if not self._failed:
            self._failed = not _written(self._envelope, format_envelope(sender, tuple(recipients)))
        self._shut("_envelope")
        text = self._error_text()
        status = self._status()
        if status == QueueExit.DONE and self._failed:
            status = QueueExit.READ_ERROR
        return Answer(status, self._number, text)

    def _whole(self, message: bytes, envelope: bytes) -> bytes | None:
        """The request that has all in it; None where that would be too long."""
        return queued.format_whole(message, envelope, serial=self._serial, facts=self._facts())

    def _submit_whole(self, sock: Connection, record: bytes) -> Answer | None:
        """Send all in one; None, and nothing is sent, where the socket takes no record of that length."""
        self._connection = sock
        try:
            if sock.own:
                sock.send(record, _socket.MSG_NOSIGNAL)
            else:
                sock.sendmsg([record], [_our_ids()], _socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno in TOO_LONG:
                return None
            self.abort()
            return Answer(QueueExit.CONNECTION_BROKE, 0)
        return Answer(self._status(), self._number)

    def _submit_pipes(self, sock: "_socket.socket", message: bytes, envelope: bytes) -> Answer:
        """Hand over pipes in which all that they take lies already, then write what they did not take."""
        self._connection = sock
        try:
            ends = self._pipes()
        except OSError:
            self.abort()
            return Answer(QueueExit.NO_MEMORY, 0)
        rests = []
        for name, data in (("message", message), ("_envelope", envelope)):
            rests.append(_fill(getattr(self, name), data))
            if not rests[-1]:
                self._shut(name)
        sent = hand_over(sock, *ends, serial=self._serial, facts=self._facts())
        for fd in ends:
            os.close(fd)
        if not sent:
            self.abort()
            return Answer(QueueExit.CONNECTION_BROKE, 0)
        for name, rest in zip(("message", "_envelope"), rests, strict=True):
            if rest:
                _written(getattr(self, name), rest)
                self._shut(name)
        return Answer(self._status(), self._number)

    def abort(self) -> None:
        """Give the message up without an answer; harmless after ``close``."""
        self._failed = True
        self._held = None
        self._shut("message")
        self._shut("_envelope")
        self._shut("_errors")
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._child:
            self._status()

    @staticmethod
    def answer_text(answer: Answer) -> tuple[bytes, bytes]:
        """K, D or Z, and the text for people."""
        return answer.letter_text()

    def _stream(self) -> bytes:
        """The service hears of a message that is not whole yet. Returns what was held, still to be written."""
        held, self._held = b"".join(self._held or []), None
        sock = self._reach()
        if sock is None:
            return held
        try:
            ends = self._pipes()
        except OSError:
            sock.close()
            self._answer = QueueExit.NO_MEMORY
            return held
        if hand_over(sock, *ends, serial=self._serial, facts=self._facts()):
            self._connection = sock
        else:
            sock.close()
            self._answer = QueueExit.CONNECTION_BROKE
        for fd in ends:
            os.close(fd)
        return held

    def _facts(self) -> bytes:
        return self._environ.get(FACTS, b"")

    def _reach(self) -> Connection | None:
        """A connection to the service; None when a child of ours writes the queue, or the answer is known already."""
        run, home = self._home + "/run/qmail-queued.", self._home
        own = run + "own" if self._serial else ""
        sock = connect(run + "sock", CONNECT_SECONDS, own, gives_up=lambda: may_write_queue(home))
        if sock is None and may_write_queue(home):
            try:
                self._fork(lambda: _run_queue(self._environ))
            except OSError:
                self._answer = QueueExit.NO_MEMORY
        elif sock is None:
            self._answer = QueueExit.CONNECT_REFUSED
        return sock

    def _execute(self, home: str, environ: "Mapping[bytes, bytes]", program: bytes) -> None:
        def become() -> int:
            try:
                os.chdir(home)
            except OSError:
                return QueueExit.NO_HOME
            try:
                os.execve(program, [program], {**ERROR_FD, **environ})
            except OSError:
                return QueueExit.EXEC_FAILED

        self._fork(become, (4, 6, *error_descriptor(environ)))

    def _fork(self, job: "Callable[[], int]", texts: tuple[int, ...] = (6,)) -> None:
        """Run ``job`` in a child with the pipes on 0 and 1 and the error pipe on ``texts``. Raises OSError."""
        if self._before_child is not None:
            self._before_child()
        message, envelope = self._pipes()
        try:
            self._errors, errors = os.pipe2(os.O_CLOEXEC)
        except OSError:
            for fd in (message, envelope):  # or a write to our own ends would wait for ever
                os.close(fd)
            self._shut("message")
            self._shut("_envelope")
            raise
        try:
            self._child = self._number = os.fork()
        except OSError:
            self._answer = QueueExit.NO_MEMORY
        if self._child == 0 and self._answer is None:
            code = QueueExit.BUG
            try:
                _arrange(message, envelope, errors, texts)
                code = job()
            finally:
                os._exit(code)
        for fd in (message, envelope, errors):
            os.close(fd)

    def _pipes(self) -> tuple[int, int]:
        message, self.message = os.pipe2(os.O_CLOEXEC)
        try:
            envelope, self._envelope = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(message)
            self._shut("message")
            raise
        return message, envelope

    def _error_text(self) -> bytes | None:
        """What came on fd 6, read to its end or 255 bytes; None under 3 bytes, which say nothing."""
        if self._errors < 0:
            return None
        text = b""
        try:
            while len(text) < ERROR_TEXT_MAX and (data := os.read(self._errors, ERROR_TEXT_MAX - len(text))):
                text += data
        except OSError:
            pass
        self._shut("_errors")
        return text if len(text) >= 3 else None

    def _status(self) -> int:
        if self._connection is not None:
            status, self._number = answer_of(self._connection)
            self._connection.close()
            self._connection = None
            return status
        if self._answer is not None:
            return self._answer
        if not self._child:
            return QueueExit.NO_MEMORY  # there was never anybody to give it to
        child, self._child = self._child, 0
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except OSError:
            return NOT_WAITED
        return code if code >= 0 else CRASHED

    def _shut(self, name: str) -> None:
        fd: int = getattr(self, name)
        if fd >= 0:
            os.close(fd)
            setattr(self, name, -1)


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


def _fill(fd: int, data: bytes) -> bytes:
    """Write to an empty pipe that nobody reads yet; what it does not take."""
    if len(data) <= PAGE:
        return data[os.write(fd, data) :] if data else b""
    try:
        return data[os.pwritev(fd, (data,), -1, os.RWF_NOWAIT) :]
    except BlockingIOError:
        return data
    except OSError:  # before Linux 6.4 pipes know no such write
        return data[_write_at_once(fd, data) :]


def _write_at_once(fd: int, data: bytes) -> int:
    """As much as there is room for; how much that was."""
    os.set_blocking(fd, False)
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    finally:
        os.set_blocking(fd, True)


def _written(fd: int, data: "bytes | bytearray | memoryview") -> bool:
    from pyqmail.system import files

    try:
        if data:
            files.write_all(fd, data)
    except OSError:
        return False
    return True


def error_descriptor(environ: "Mapping[bytes, bytes]") -> tuple[int, ...]:
    """Where $ERROR_FD says that the program writes its text, if that is one of its own to say."""
    given = environ.get(b"ERROR_FD", b"")
    return (int(given),) if given in (b"2", b"3", b"5", b"7", b"8", b"9") else ()


def _arrange(message: int, envelope: int, errors: int, texts: tuple[int, ...]) -> None:
    """In the child: message and envelope on 0 and 1, errors on each of ``texts``, nothing else of the parent's but fd
    2, signals as at start."""
    import fcntl

    from pyqmail.system.process import HIGHEST, reset_signals

    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (message, envelope, errors)]
    os.closerange(3, 10)
    for fd, target in ((high[0], 0), (high[1], 1), *((high[2], text) for text in texts)):
        os.dup2(fd, target)
    os.closerange(10, HIGHEST)
    reset_signals()


def _run_queue(environ: "Mapping[bytes, bytes]") -> int:
    from pyqmail.control import home_of
    from pyqmail.intake.direct import queue_standard_input

    return queue_standard_input(home_of(environ), environ.get(FACTS, b""))
