"""One submission in the hands of a worker: its connection, what came on it, and how far it has been read."""

import _socket
import select
import socket
import time

from pyqmail.exits import QueueExit
from pyqmail.protocol import queued
from pyqmail.spool.draft import Draft
from pyqmail.system import foreign
from pyqmail.system.loop import Timer

# Of plain numbers: those of the socket module are enums, which take a hundred bytecodes for each "or" (warm/wire).
TAKE = _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT
CUT_OFF = _socket.MSG_CTRUNC | _socket.MSG_TRUNC
TELL = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL
REQUEST_MAX = queued.REQUEST_MAX + 1  # one more, so that what is too long is no request
ANCILLARY_MAX = foreign.RIGHTS_SPACE + socket.CMSG_SPACE(12)


class Handed:
    """The descriptors that a client has handed over."""

    __slots__ = ("envelope", "message", "others", "read", "sockets")

    def __init__(self) -> None:
        self.message = self.envelope = -1  # -1 once it has been read
        self.others: list[int] = []  # of a request that is none
        self.sockets: set[int] = set()  # which of the two are no pipes
        self.read: list[int] = []  # of those, what has been read

    def descriptors(self) -> list[int]:
        """What is still open here."""
        return [fd for fd in (self.message, self.envelope, *self.read, *self.others) if fd >= 0]


class Watched:
    """What the loop watches for a submission (intake/watches.py)."""

    __slots__ = ("connection", "descriptor", "timer")

    def __init__(self) -> None:
        self.descriptor = -1
        self.connection = False
        self.timer: Timer | None = None  # while the request has not come


class Receipt:
    """A submission from its connection to its answer; ``job`` is what the parent calls it."""

    __slots__ = (
        "answered", "apart", "connection", "draft", "facts", "gone", "handed", "job", "refused", "serial", "started",
        "submission", "uid", "watched", "whole",
    )  # fmt: skip

    def __init__(self, job: int, serial: int, connection: int) -> None:
        self.job = job
        self.serial = serial  # to be used if the client asks for one; 0 is none
        self.connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, connection)
        self.refused = 0  # the exit code to answer, whatever the client wants
        self.uid = -1  # the real uid of the client, once it is known
        self.submission = 0
        self.facts = b""  # that the client sent with its request
        self.whole: tuple[bytes, bytes] | None = None  # message and envelope, where they were in the request
        self.handed = Handed()
        self.watched = Watched()
        self.draft: Draft | None = None
        self.answered = False
        self.apart = False  # a thread reads it
        self.gone = False  # and nobody waits for that any more
        self.started = time.monotonic()

    def want_ids(self) -> None:
        """Have the kernel say who the client is; without that the request cannot be taken."""
        try:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        except OSError:
            self.refused = QueueExit.CONNECTION_BROKE

    def request(self) -> int:
        """Take the request: 0, or the exit code to answer with. Raises BlockingIOError while it has not come."""
        if self.refused:
            return self.refused
        try:
            known = self.receive()
        except BlockingIOError:
            raise
        except OSError:
            return QueueExit.CONNECTION_BROKE
        if not known:
            return QueueExit.BUG
        return 0 if self.submission else QueueExit.NO_PID_FILE  # no serial could be had

    def receive(self) -> bool:
        """Take the request; whether it is one. Raises BlockingIOError while it has not come, OSError if it will not."""
        data, ancillary, flags, _ = self.connection.recvmsg(REQUEST_MAX, ANCILLARY_MAX, TAKE)
        self.handed.others = foreign.rights_of(ancillary)
        if not data and not self.handed.others:
            raise ConnectionError("the client has gone")
        request = queued.parse_request(data)
        if request is None or flags & CUT_OFF:
            return False
        serial, self.facts, self.whole = request
        if len(self.handed.others) != (2 if self.whole is None else 0) or not self._identify(ancillary, serial=serial):
            return False
        if self.whole is None:
            (self.handed.message, self.handed.envelope), self.handed.others = self.handed.others, []
        return True

    def _identify(self, ancillary: list[tuple[int, int, bytes]], *, serial: bool) -> bool:
        """Learn whose the submission is and what it is called; whether that can be known."""
        pid = 0
        for level, kind, ids in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(ids) == 12:
                pid, self.uid, _gid = queued.parse_credentials(ids)
        self.submission = self.serial if serial else pid
        return self.uid >= 0 and (serial or pid > 0)

    def answer(self, exit_code: int) -> None:
        """Tell the client, once; it may have gone, and what is queued stays queued."""
        if self.answered:
            return
        self.answered = True
        try:
            self.connection.send(queued.format_answer(exit_code & 255, self.submission), TELL)
        except OSError:
            return

    def hung_up(self) -> bool:
        """Whether the client has closed its end, or says something it should not."""
        look = select.poll()
        look.register(self.connection, select.POLLIN)
        return bool(look.poll(0))

    def close_slowly(self, odd: list[int], unasked: list[int] | None) -> None:
        """Close ``odd``, all that was sent on the connection unasked, and the connection last."""
        foreign.close_each(odd)
        while unasked is not None:
            foreign.close_each(unasked)
            unasked = foreign.unasked(self.connection)
        self.connection.close()
