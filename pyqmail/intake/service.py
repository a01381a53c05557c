"""The parent of qmail-queued: it takes connections and passes each to a worker; it reads no mail.

It learns who the client is from the kernel, bounds how many submissions a uid has open, and passes each to one of a few
workers (intake/worker.py), which answer the client themselves.
"""

import fcntl
import os
import signal
import socket
from collections import deque
from collections.abc import Mapping

from pyqmail.build import BUILD_ID
from pyqmail.exits import QueueExit
from pyqmail.intake import worker
from pyqmail.intake.serials import Serials
from pyqmail.policy.accounts import Accounts
from pyqmail.protocol import queued
from pyqmail.spool.enqueue import Spool
from pyqmail.spool.layout import Layout
from pyqmail.system import files, foreign
from pyqmail.system.loop import Loop
from pyqmail.system.process import (
    become,
    close_all_but,
    plug_standard_descriptors,
    reset_signals,
    set_title,
)
from pyqmail.warm import wire

WORKERS_MAX = 4  # measured: enough to keep a disk's journal busy; more than processors share fewer syncs
SLOTS = 100  # open submissions per uid, without control/conf-queueslots
DAEMON_SLOTS = 400  # qmaild has at least as many: every qmail-smtpd submits as qmaild
WAITING = 400  # submissions of one uid that wait for a slot; more are refused
WAITING_SHARE = 8  # each of them holds three descriptors: fewer wait where there are few, or one uid would have all
REQUEST_SECONDS = 30.0  # for the request to follow the connection
ACCEPTS_A_TURN = 64
RESTART_SECONDS = 1.0  # before a dead worker is replaced
RETRY_SECONDS = 0.05  # when a worker's job socket takes no more descriptors
LISTEN_FDS_START = 3  # sd_listen_fds(3)


def worker_count() -> int:
    """How many workers read and commit submissions on this machine."""
    return max(2, min(WORKERS_MAX, os.cpu_count() or 2))


class Submitter:
    """A uid's account of slots."""

    __slots__ = ("open", "waiting")

    def __init__(self) -> None:
        self.open = 0
        self.waiting: deque[tuple[socket.socket, int, int, int]] = deque()


class Lane:
    """A worker as the parent sees it: its socket, its open jobs and what could not be sent yet."""

    __slots__ = ("jobs", "pid", "socket", "unsent")

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.socket = sock
        self.jobs: dict[int, int] = {}  # job id: uid
        self.unsent: deque[tuple[bytes, socket.socket, int, int]] = deque()


class Service:
    """The parent process."""

    def __init__(self, layout: Layout, accounts: Accounts, listener: socket.socket, slots: int, waiting: int) -> None:
        self.layout = layout
        self.accounts = accounts
        self.listener = listener
        self.slots = slots
        self.waiting = waiting
        self.loop = Loop()
        self.serials = Serials(layout.serial)
        self.submitters: dict[int, Submitter] = {}
        self.visitors: dict[int, int] = {}  # connections without a request yet, per peer uid
        self.lanes: list[Lane] = []
        self.last_job = 0
        self.stopping = False
        self.lock = -1  # that of the one running service

    def run(self) -> int:
        """Serve until SIGTERM, then let the workers finish."""
        for _ in range(worker_count()):
            self._start_worker()
        self.loop.add_signal(signal.SIGTERM, self._stop)
        self.listener.setblocking(False)
        self.loop.add_reader(self.listener.fileno(), self._accept)
        while not (self.stopping and not self.lanes):
            self.loop.run_once()
        return 0

    def limit(self, uid: int) -> int:
        """How many submissions ``uid`` may have open."""
        return max(self.slots, DAEMON_SLOTS) if uid == self.accounts.uid_daemon else self.slots

    def _start_worker(self) -> None:
        if self.stopping:
            return
        ours, theirs = wire.pair()
        pid = os.fork()
        if pid == 0:
            code = QueueExit.BUG
            try:
                close_all_but((1, 2, theirs.fileno()))
                plug_standard_descriptors()
                reset_signals()
                set_title("qmail-queue")
                code = worker.serve(Spool(self.layout, self.accounts), theirs)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        theirs.close()
        ours.setblocking(False)
        lane = Lane(pid, ours)
        self.lanes.append(lane)
        self.loop.add_reader(ours.fileno(), lambda: self._hear(lane))

    def _hear(self, lane: Lane) -> None:
        """Jobs that are over, or the end of the worker."""
        while True:
            try:
                record = lane.socket.recv(64)
            except BlockingIOError:
                return
            except OSError:
                record = b""
            if not record:
                self._bury(lane)
                return
            uid = lane.jobs.pop(int.from_bytes(record, "little"), None)
            if uid is not None:
                self._free(uid)

    def _bury(self, lane: Lane) -> None:
        """A worker has ended: its clients see the end of their connections; another takes its place."""
        self.loop.remove_reader(lane.socket.fileno())
        self.loop.remove_writer(lane.socket.fileno())
        lane.socket.close()
        os.waitpid(lane.pid, 0)
        self.lanes.remove(lane)
        for _, connection, message, envelope in lane.unsent:
            foreign.give_back(connection, (message, envelope))
        if not self.stopping:
            self.loop.call_later(RESTART_SECONDS if not self.lanes else 0.0, self._start_worker)
        for uid in lane.jobs.values():
            self._free(uid)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, name = self.listener.accept()
            except BlockingIOError:
                return
            except OSError:
                self.loop.remove_reader(self.listener.fileno())  # no descriptors: look again soon
                self.loop.call_later(RETRY_SECONDS, self._accept_again)
                return
            if isinstance(name, bytes) and name.startswith(queued.BUILD_QUESTION):
                _say(connection, queued.format_build(BUILD_ID))
                connection.close()
                continue
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._receive_or_wait(connection)

    def _accept_again(self) -> None:
        if not self.stopping:
            self.loop.add_reader(self.listener.fileno(), self._accept)

    def _receive_or_wait(self, connection: socket.socket) -> None:
        """The request has usually come with the connection; if not, wait for it, a bounded number per uid."""
        if self._receive(connection):
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = queued.parse_credentials(credentials)[1]
        if self.visitors.get(uid, 0) >= self.limit(uid):
            foreign.give_back(connection, ())
            return
        self.visitors[uid] = self.visitors.get(uid, 0) + 1
        fd = connection.fileno()

        def leave() -> None:
            timer.cancel()
            self.loop.remove_reader(fd)
            self.visitors[uid] -= 1
            if not self.visitors[uid]:
                del self.visitors[uid]

        def ready() -> None:
            leave()
            if not self._receive(connection):
                foreign.give_back(connection, ())

        def expire() -> None:
            leave()
            foreign.give_back(connection, ())

        timer = self.loop.call_later(REQUEST_SECONDS, expire)
        self.loop.add_reader(fd, ready)

    def _receive(self, connection: socket.socket) -> bool:
        """Take the request if it is there; false when it has not come yet."""
        space = foreign.RIGHTS_SPACE + socket.CMSG_SPACE(12)  # all: what does not fit the kernel closes, at leisure
        try:
            data, ancillary, flags, _ = connection.recvmsg(64, space, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            foreign.give_back(connection, ())
            return True
        fds, sender = _unpack(ancillary)
        serial = queued.parse_request(data)
        if serial is None or sender is None or len(fds) != 2 or flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            if data:
                _refuse(connection, QueueExit.BUG)
            foreign.give_back(connection, fds)
            return True
        pid, uid, _gid = sender
        try:
            submission = self.serials.take() if serial else pid
        except OSError:
            _refuse(connection, QueueExit.NO_PID_FILE)
            foreign.give_back(connection, fds)
            return True
        self._admit(uid, connection, fds[0], fds[1], submission)
        return True

    def _admit(self, uid: int, connection: socket.socket, message: int, envelope: int, submission: int) -> None:
        submitter = self.submitters.setdefault(uid, Submitter())
        if submitter.open < self.limit(uid) and self.lanes:
            submitter.open += 1
            self._dispatch(uid, connection, message, envelope, submission)
        elif len(submitter.waiting) < self.waiting:
            submitter.waiting.append((connection, message, envelope, submission))
            if not self.lanes:
                self.loop.call_later(RESTART_SECONDS, lambda: self._advance(uid))
        else:
            _refuse(connection, QueueExit.CONNECT_REFUSED)
            foreign.give_back(connection, (message, envelope))

    def _free(self, uid: int) -> None:
        """A slot of ``uid`` is free: the first of its waiting submissions takes it."""
        self.submitters[uid].open -= 1
        self._advance(uid)

    def _advance(self, uid: int) -> None:
        submitter = self.submitters.get(uid)
        if submitter is None:
            return
        if not self.lanes and submitter.waiting and not self.stopping:
            self.loop.call_later(RESTART_SECONDS, lambda: self._advance(uid))
            return
        while submitter.waiting and self.lanes and submitter.open < self.limit(uid):
            connection, message, envelope, submission = submitter.waiting.popleft()
            submitter.open += 1
            self._dispatch(uid, connection, message, envelope, submission)
        if not submitter.open and not submitter.waiting:
            self.submitters.pop(uid, None)

    def _dispatch(self, uid: int, connection: socket.socket, message: int, envelope: int, submission: int) -> None:
        lane = min(self.lanes, key=lambda lane: len(lane.jobs))
        self.last_job += 1
        lane.jobs[self.last_job] = uid
        pipes = foreign.is_pipe(message) and foreign.is_pipe(envelope)
        record = queued.format_job(self.last_job, uid, submission, pipes=pipes)
        lane.unsent.append((record, connection, message, envelope))
        if len(lane.unsent) == 1:
            self._send(lane)

    def _send(self, lane: Lane) -> None:
        """Send what the worker's socket takes; the rest when it takes more."""
        if lane.socket.fileno() < 0:
            return
        self.loop.remove_writer(lane.socket.fileno())
        while lane.unsent:
            payload, connection, message, envelope = lane.unsent[0]
            try:
                wire.send_record(lane.socket, payload, (connection.fileno(), message, envelope))
            except BlockingIOError:
                self.loop.add_writer(lane.socket.fileno(), lambda: self._send(lane))
                return
            except (BrokenPipeError, ConnectionResetError):
                return  # its end will be heard
            except OSError:  # too many descriptors on their way
                self.loop.call_later(RETRY_SECONDS, lambda: self._send(lane))
                return
            lane.unsent.popleft()
            foreign.give_back(None, (message, envelope), pipes=queued.parse_job(payload)[3])
            connection.close()  # the worker has it too, and sees to what is sent on it unasked

    def _stop(self) -> None:
        """No new submissions; the workers finish what is open and end when their job sockets do.

        The lock is given back at once, so that a successor may serve meanwhile.
        """
        if self.stopping:
            return
        self.stopping = True
        if self.lock >= 0:
            os.close(self.lock)
        self.loop.remove_reader(self.listener.fileno())
        self.listener.close()
        for submitter in self.submitters.values():
            while submitter.waiting:
                connection, message, envelope, _ = submitter.waiting.popleft()
                foreign.give_back(connection, (message, envelope))
        for lane in self.lanes:
            lane.socket.shutdown(socket.SHUT_WR)


def _unpack(
    ancillary: list[tuple[int, int, bytes]],
) -> tuple[list[int], tuple[int, int, int] | None]:
    """Descriptors and credentials of a request."""
    sender = None
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(data) == 12:
            sender = queued.parse_credentials(data)
    return foreign.rights_of(ancillary), sender


def _refuse(connection: socket.socket, exit_code: int) -> None:
    _say(connection, queued.format_answer(exit_code, 0))


def _say(connection: socket.socket, record: bytes) -> None:
    try:
        connection.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        pass


def inherited_socket(environ: Mapping[bytes, bytes]) -> socket.socket | None:
    """The listening socket that a supervisor passed (LISTEN_FDS)."""
    if environ.get(b"LISTEN_FDS") != b"1" or environ.get(b"LISTEN_PID", b"%d" % os.getpid()) != b"%d" % os.getpid():
        return None
    return socket.socket(fileno=LISTEN_FDS_START)


def lock_service(layout: Layout) -> int | None:
    """The held lock of the one running service; None when another has it. Raises OSError."""
    fd = os.open(layout.run_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def bind(layout: Layout) -> socket.socket:
    """A fresh socket under the well-known name, whoever's stale one it replaces; only the lock's holder calls this."""
    files.unlink_if_present(layout.run_socket)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(layout.run_socket)
    os.chmod(layout.run_socket, 0o666)
    listener.listen(1024)
    return listener


def prepare_run(layout: Layout, accounts: Accounts) -> None:
    """Create run/ if need be, and take the queue's user if started by root. Raises OSError."""
    folder = os.path.dirname(layout.run_socket)
    root = os.geteuid() == 0
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o755)
    if root:
        os.chown(folder, accounts.uid_queue, accounts.gid_qmail)
        become(accounts.uid_queue, accounts.gid_qmail, [accounts.gid_qmail])
    if os.stat(folder).st_uid == os.geteuid():
        os.chmod(folder, 0o755)
