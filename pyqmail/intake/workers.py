"""The workers of qmail-queued as its parent sees them: made, given work, watched, replaced, and waited for.

The parent never waits for one of them. A worker that shows no sign of life with work in hand is killed; one that does
not die even then stays in ``dying``, and keeps its place, until waitpid has it.
"""

import _socket
import os
import resource
import signal
import socket
from collections import deque
from collections.abc import Callable

from pyqmail.exits import QueueExit
from pyqmail.intake import worker
from pyqmail.intake.acceptance import NO_LEASE, OwnDoor
from pyqmail.intake.leases import Leases
from pyqmail.intake.parent_link import TOLD_MAX
from pyqmail.intake.pulse import DISK, WAITING, Pulse
from pyqmail.log.bugs import tell_bug
from pyqmail.policy.accounts import Accounts
from pyqmail.protocol import queued
from pyqmail.spool.enqueue import Spool
from pyqmail.spool.layout import Layout
from pyqmail.system.loop import Loop
from pyqmail.system.process import close_all_but, plug_standard_descriptors, reset_signals, set_title
from pyqmail.warm import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.spool.commit import Copies

READY_SECONDS = 5.0  # for a new worker's first word
RETRY_SECONDS = 0.05  # when a worker's job socket takes no more descriptors
TICK_SECONDS = 1.0  # from one look at the workers to the next
QUIET_TICKS = 4  # without a sign of life before a worker is replaced
QUIET_SHARED_TICKS = 60  # the same for one that is busy with our own programs' pipes: only a slow disk can hold it
QUIET_DISK_TICKS = 600  # the same in the middle of a commit, which is worth waiting for
TASKS_MAX = 512  # of qmailq, beyond which a worker for one uid makes no threads
FILES_MAX = 4096  # descriptors of a worker for one uid


class WorkerLink:
    """One worker: its socket, its open jobs and what could not be sent yet. ``uid`` is None for a shared one."""

    __slots__ = (
        "idle_ticks", "jobs", "last", "lent", "pid", "pulse", "quiet", "recalled", "retiring", "sent", "share",
        "socket", "turns", "uid", "unsent", "wants_lease",
    )  # fmt: skip

    def __init__(self, pid: int, sock: socket.socket, pulse: Pulse, uid: int | None, share: int) -> None:
        self.pid = pid
        self.socket = sock
        self.pulse = pulse
        self.uid = uid
        self.share = share  # whose place it takes
        self.jobs: dict[int, int] = {}  # job id: uid
        self.unsent: deque[tuple[bytes, int, _socket.socket]] = deque()
        self.retiring = False  # it gets no more jobs
        self.lent = False  # it may accept for itself
        self.recalled = False  # and has been asked to stop that
        self.wants_lease = False  # numbers for what it accepts
        self.sent = 0
        self.last = (0, 0, 0)
        self.turns = 0  # at the last look round
        self.quiet = 0  # ticks without a sign of life
        self.idle_ticks = 0

    def in_hand(self) -> int:
        """How many jobs it has been given and has not taken."""
        return len(self.unsent) + max(0, self.sent - self.pulse.read()[1])

    def at_work(self) -> bool:
        """Whether it has anything to do."""
        return bool(self.jobs or self.pulse.door()[1] or self.in_hand())

    def look(self) -> bool:
        """Take note of a tick; whether it has been silent for too long."""
        now = self.pulse.read()
        state = now[2]
        silent = self.at_work() and now == self.last and (state != WAITING or now[1] < self.sent)
        self.quiet = self.quiet + 1 if silent else 0
        self.idle_ticks = 0 if self.jobs else self.idle_ticks + 1
        self.last = now
        if state == DISK:
            return self.quiet >= QUIET_DISK_TICKS
        return self.quiet >= (QUIET_SHARED_TICKS if self.uid is None and state != WAITING else QUIET_TICKS)


class Workers:
    """All workers of one service. ``freed`` is called when a worker has finished a job for a uid, or has ended."""

    def __init__(
        self,
        loop: Loop,
        layout: Layout,
        accounts: Accounts,
        freed: Callable[[WorkerLink, int], None],
        copies: "Callable[[], Copies] | None" = None,
    ) -> None:
        """``copies`` makes what has a worker's messages copied, where that is wanted."""
        self.loop = loop
        self.accounts = accounts
        self._spool = lambda: Spool(layout, accounts, copies() if copies is not None else None)
        self.freed = freed
        self.links: list[WorkerLink] = []
        self.dying: dict[int, WorkerLink] = {}  # by pid: killed, or at its end
        self.ended: Callable[[WorkerLink], None] = lambda link: None  # waitpid has it
        self.last_job = queued.RETIRING
        self.leases: Leases | None = None  # where shared ones accept for themselves

    def start(self, uid: int | None, share: int) -> WorkerLink | None:
        """A new worker that has let go of all that is open here; None when that did not succeed.

        Waiting for its first word keeps what the parent has open from being closed last by the new one, which could
        then have to wait for what some other stranger arranged.
        """
        door = self.leases.door() if self.leases is not None and uid is None else None
        ours, theirs = wire.pair()
        pulse = Pulse()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return None
        if pid == 0:
            _be_worker(self._spool, theirs, pulse, uid, door)
        theirs.close()
        link = WorkerLink(pid, ours, pulse, uid, share)
        if not _ready(ours):
            self._kill(link)
            ours.close()
            return None
        ours.setblocking(False)
        if door is not None:
            link.wants_lease = door.lease == NO_LEASE
        self.links.append(link)
        self.loop.add_reader(ours.fileno(), lambda: self._hear(link))
        return link

    def give(self, link: WorkerLink, uid: int, connection: _socket.socket, serial: int, refuse: int = 0) -> None:
        """Hand ``connection`` on; the worker answers with ``refuse`` unread if that is not 0."""
        self.last_job += 1
        link.jobs[self.last_job] = uid
        link.unsent.append((queued.format_job(self.last_job, serial, refuse, uid), uid, connection))
        if len(link.unsent) == 1:
            self._send(link)

    def _send(self, link: WorkerLink) -> None:
        """Send what the worker's socket takes; the rest when it takes more."""
        if link.socket.fileno() < 0:
            return
        self.loop.remove_writer(link.socket.fileno())
        while link.unsent:
            payload, _, connection = link.unsent[0]
            try:
                wire.send_record(link.socket, payload, (connection.fileno(),))
            except BlockingIOError:
                self.loop.add_writer(link.socket.fileno(), lambda: self._send(link))
                return
            except (BrokenPipeError, ConnectionResetError):
                return  # its end will be heard
            except OSError:  # too many descriptors on their way
                self.loop.call_later(RETRY_SECONDS, lambda: self._send(link))
                return
            link.sent += 1
            link.unsent.popleft()
            connection.close()  # the worker has it too, or will: this is not the last close of what came on it
        if link.retiring:
            _say_no_more(link)

    def _hear(self, link: WorkerLink) -> None:
        """Jobs that are over, or the end of the worker."""
        try:
            record = link.socket.recv(queued.FREED_SIZE * TOLD_MAX)
        except BlockingIOError:
            return
        except OSError:
            record = b""
        if not record:
            self._bury(link)
            return
        for job in queued.parse_freed(record):
            if job == queued.RETIRING:
                self.retire(link)
            elif job >= queued.LEFT and self.leases is not None:
                self.leases.hear(link, job)
            uid = link.jobs.pop(job, None)
            if uid is not None:
                self.freed(link, uid)

    def retire(self, link: WorkerLink) -> None:
        """No more jobs for this one: it ends when it has done what it has."""
        if not link.retiring:
            link.retiring = True
            if not link.unsent:
                _say_no_more(link)

    def replace(self, link: WorkerLink) -> None:
        """Kill a worker: its clients see the end of their connections."""
        self._kill(link)
        self._bury(link)

    def _kill(self, link: WorkerLink) -> None:
        self.dying[link.pid] = link
        try:
            os.kill(link.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # waitpid will have it

    def _bury(self, link: WorkerLink) -> None:
        """A worker has ended or is about to; what was not sent to it goes back to whoever gave it."""
        self.loop.remove_reader(link.socket.fileno())
        self.loop.remove_writer(link.socket.fileno())
        link.socket.close()
        link.retiring = True
        self.links.remove(link)
        self.dying[link.pid] = link
        uids, link.jobs = list(link.jobs.values()), {}
        for uid in uids:
            self.freed(link, uid)
        self.reap()

    def reap(self) -> None:
        """Collect whoever has really ended."""
        for pid, link in list(self.dying.items()):
            try:
                gone = os.waitpid(pid, os.WNOHANG)[0] != 0
            except ChildProcessError:
                gone = True
            if gone and self.dying.pop(pid, None) is not None:
                link.pulse.close()
                self.ended(link)

    def tick(self) -> None:
        """Look whether each worker with work in hand still lives, and replace those that do not.

        What a failure here, of memory or of a bug, has left unsent or unsaid is sent and said again: later jobs wait
        behind it, and a worker that is to end for it.
        """
        for link in list(self.links):
            if link.look():
                name = "shared" if link.uid is None else f"for uid {link.uid}"
                _warn(f"worker {link.pid} ({name}) says nothing: replaced")
                self.replace(link)
        for link in self.dying.values():
            link.quiet += 1
        self.reap()
        for link in [link for link in self.links if link.unsent or link.retiring]:
            self._send(link)
        if self.leases is not None:
            self.leases.tick(self.links)


def _be_worker(
    spool: Callable[[], Spool], theirs: socket.socket, pulse: Pulse, uid: int | None, door: OwnDoor | None
) -> None:
    """The child: serve what comes on ``theirs``, or by ``door``, and end; ``uid`` is None for a shared worker."""
    code = QueueExit.BUG
    try:
        kept = () if door is None else (door.listener.fileno(),)
        close_all_but((1, 2, theirs.fileno(), *kept))
        plug_standard_descriptors()
        reset_signals()
        set_title("qmail-queue" if uid is None else f"qmail-queue for uid {uid}")
        made = spool()
        if uid is not None:
            _limit(resource.RLIMIT_NOFILE, FILES_MAX)
            if not made.accounts.single_user:
                _limit(resource.RLIMIT_NPROC, TASKS_MAX)
        code = worker.serve(made, theirs, pulse, alone=uid is not None, door=door)
    except BaseException as error:
        tell_bug("qmail-queue", error)
    finally:
        os._exit(code)


def _ready(sock: socket.socket) -> bool:
    sock.settimeout(READY_SECONDS)
    try:
        return sock.recv(16) == worker.READY
    except OSError:
        return False


def _say_no_more(link: WorkerLink) -> None:
    for _ in range(2):  # a worker that never hears it would never end
        try:
            link.socket.shutdown(socket.SHUT_WR)
            return
        except OSError:
            continue  # or it has ended


def _limit(what: int, most: int) -> None:
    """Lower a limit of this process."""
    hard = resource.getrlimit(what)[1]
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(what, (most, most))


def _warn(text: str) -> None:
    try:
        os.write(2, b"qmail-queued: warning: " + text.encode() + b"\n")
    except OSError:
        return
