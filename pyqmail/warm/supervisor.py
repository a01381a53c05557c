"""The supervisor: the process that qmail-start leaves behind to start and replace all helpers (qmail-start(8)).

It stays what it was started as, root; it reads nothing but one byte from qmail-send, and ends when neither a helper nor
qmail-send needs it, on TERM, or when the queue of its home is gone. Of one home there is one: once qmail-send serves
(and so holds its lock) the supervisor of an earlier qmail-start is replaced.

    earlier one        what it gets     its qmail-queued
    the same build     USR1: ends       goes on, and is watched by the new one
    another build      TERM             ends, and the new one starts its own
    dead, its qmail-queued left         the same, by the build of that
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

from pyqmail.protocol import supervision
from pyqmail.system import processes
from pyqmail.system.loop import Loop
from pyqmail.system.process import HIGHEST, fork_child, limit_memory, set_title
from pyqmail.warm.supervised import HELPERS, Helper, answers, listener

TITLE = "qmail-keeper"
FIRST_WAIT_S = 1.0  # before a helper that ended is started again; twice that each time,
LAST_WAIT_S = 60.0  # up to this, and from the start again once one has lived as long
LOOK_S = 5.0  # from one look whether the home is still there to the next
TURN_S = 0.05  # from one look whether an earlier service has ended to the next
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STANDARD = 3  # descriptors 0, 1 and 2


class BackOff:
    """How long to wait before the next start, by how long the last one lived."""

    def __init__(self) -> None:
        self._wait_s = 0.0

    def after(self, lived_s: float) -> float:
        """Seconds to wait now."""
        again = lived_s < LAST_WAIT_S
        self._wait_s = min(LAST_WAIT_S, self._wait_s * 2) if again and self._wait_s else FIRST_WAIT_S
        return self._wait_s


class Kept:
    """A helper and its process, if there is one."""

    def __init__(self, helper: Helper) -> None:
        self.helper = helper
        self.pid = 0
        self.ours = False  # our child; else one that an earlier supervisor started
        self.watch = -1  # the descriptor that tells its end
        self.began = 0.0
        self.waiting = False  # to be started again soon
        self.back_off = BackOff()

    @property
    def name(self) -> str:
        """Its program."""
        return self.helper.name.decode()


class Supervisor:
    """One loop: ends of helpers, the end of qmail-send, signals."""

    def __init__(
        self, home: str, queue: str, run: Callable[[Sequence[bytes]], int], wanted: Sequence[Helper], link: int
    ) -> None:
        self._home = home
        self._queue = queue
        self._queue_is = os.stat(queue)
        self._run = run
        self._loop = Loop()
        self._kept = [Kept(helper) for helper in wanted]
        self._link: socket.socket | None = socket.socket(fileno=link) if link >= 0 else None  # to qmail-send
        self._served = False  # qmail-send said that it is there
        self._ending = False
        self._left = False  # a successor has what we kept
        self._inheriting = False
        self._bequeathed: set[int] = set()  # what earlier supervisors kept

    def run(self, ready: int) -> int:
        """Serve; a byte goes to ``ready`` once what outlives qmail-send is started. Raises OSError before that."""
        for signum, act in ((signal.SIGTERM, self._end), (signal.SIGUSR1, self._leave)):
            self._loop.add_signal(signum, act)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        set_title(f"{TITLE} {self._home}")
        for kept in self._kept:
            if kept.helper.outlives and not answers(self._home, kept.helper):
                self._start(kept)
        os.write(ready, b"+")
        os.close(ready)
        if self._link is None:
            self._succeed()
        else:
            self._loop.add_reader(self._link.fileno(), self._hear)
        self._look()
        while not self._left and self._needed():
            self._loop.run_once()
        return 0

    def _needed(self) -> bool:
        if any(kept.pid or kept.waiting for kept in self._kept):
            return True
        return not self._ending and (self._inheriting or self._link is not None)

    # what we are told

    def _hear(self) -> None:
        """qmail-send serves, or has ended."""
        assert self._link is not None
        try:
            record = self._link.recv(supervision.RECORD_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            record = b""
        if not record:
            self._part()
        elif not self._served:
            self._served = True
            self._succeed()
            for kept in self._kept:
                if not kept.helper.outlives:
                    self._restart(kept)

    def _part(self) -> None:
        """qmail-send has ended, and with it whatever does not outlive it."""
        assert self._link is not None
        self._loop.remove_reader(self._link.fileno())
        self._link.close()
        self._link = None
        for kept in self._kept:
            if not kept.helper.outlives:
                kept.waiting = False
                if kept.pid and not kept.helper.told:  # the others see the end of what they are told
                    self._signal(kept, signal.SIGTERM)

    def _end(self) -> None:
        if not self._ending:
            self._tell(supervision.ENDS)
        self._ending = True
        for kept in self._kept:
            kept.waiting = False
            self._signal(kept, signal.SIGTERM)

    def _leave(self) -> None:
        self._left = True

    def _look(self) -> None:
        """End where the queue is gone, or is another one under the same name."""
        try:
            gone = not os.path.samestat(self._queue_is, os.stat(self._queue))
        except FileNotFoundError:
            gone = True
        except OSError:
            gone = False
        if gone and not self._ending:
            self._end()
        self._loop.call_later(LOOK_S, self._look)

    # starting and missing

    def _start(self, kept: Kept) -> None:
        """Fork the helper. Raises OSError."""
        ours, theirs = socket.socketpair() if kept.helper.told else (None, None)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a child that still has our handlers would lose them
        try:
            pid = fork_child(lambda: prepare(kept.helper, theirs), lambda: self._run([kept.helper.name]))
            try:
                self._watch(kept, pid, ours=True)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            if ours is not None:
                self._tell(supervision.format_feed(kept.helper.name), ours.fileno())
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for sock in (ours, theirs):
                if sock is not None:
                    sock.close()

    def _watch(self, kept: Kept, pid: int, *, ours: bool) -> None:
        kept.watch = os.pidfd_open(pid)
        kept.pid, kept.ours, kept.began = pid, ours, time.monotonic()
        self._loop.add_reader(kept.watch, lambda: self._ended(kept))

    def _ended(self, kept: Kept) -> None:
        """A helper has ended: in order, after qmail-send, or another one takes its place."""
        self._loop.remove_reader(kept.watch)
        os.close(kept.watch)
        code = os.waitstatus_to_exitcode(os.waitpid(kept.pid, 0)[1]) if kept.ours else None
        kept.pid = 0
        if self._link is not None:
            self._hear()  # of qmail-send's end, if that is why
        in_order = self._link is None and (code == 0 or not kept.helper.outlives)
        if not self._ending and not in_order:
            self._again(kept, "has ended" if code is None else how_it_ended(code))

    def _again(self, kept: Kept, why: str) -> None:
        """Start it again after a while, and say so."""
        wait_s = kept.back_off.after(time.monotonic() - kept.began if kept.began else 0.0)
        kept.began = 0.0
        kept.waiting = True
        self._alert(f"{kept.name} {why}: {kept.helper.loss}; it is started again in {wait_s:.0f} s")
        self._loop.call_later(wait_s, lambda: self._restart(kept) if kept.waiting else None)

    def _restart(self, kept: Kept) -> None:
        kept.waiting = False
        if self._ending or kept.pid:
            return
        try:
            if kept.helper.outlives and answers(self._home, kept.helper):
                return  # somebody else's by now
            self._start(kept)
        except OSError as error:
            self._again(kept, f"cannot be started ({error.strerror})")

    def _signal(self, kept: Kept, signum: int) -> None:
        if not kept.pid:
            return
        try:
            signal.pidfd_send_signal(kept.watch, signum)
        except ProcessLookupError:
            return  # it has ended, and will be seen to have

    # the supervisor before us

    def _succeed(self) -> None:
        """Take over what an earlier supervisor keeps, or left behind when it was killed."""
        for earlier in supervisors(self._home, self._queue):
            for kept in self._kept:
                left = serving(self._home, kept.helper)
                if left is not None and left.parent == earlier.pid:
                    self._bequeathed.add(left.pid)
            knows = earlier.name == TITLE and is_of_our_build(earlier.pid)
            processes.send_signal(earlier, signal.SIGUSR1 if knows else signal.SIGTERM)
        self._inheriting = True
        self._inherit(time.monotonic() + LAST_WAIT_S)

    def _inherit(self, until: float) -> None:
        """Watch the qmail-queued that is left, or start one as soon as that of another build has gone."""
        waiting = bool(supervisors(self._home, self._queue)) and time.monotonic() < until
        for kept in self._kept:
            if waiting or not kept.helper.outlives or kept.pid or kept.waiting or self._ending:
                continue
            left = serving(self._home, kept.helper)
            if left is None:
                self._restart(kept)
            elif left.pid in self._bequeathed or is_left_behind(left):
                waiting |= not self._take_over(kept, left)
        self._inheriting = waiting
        if waiting:
            self._loop.call_later(TURN_S, lambda: self._inherit(until))

    def _take_over(self, kept: Kept, left: processes.Process) -> bool:
        """Watch ``left``; false if it had to be told to end, since it is of another build."""
        if not is_of_our_build(left.pid):
            processes.send_signal(left, signal.SIGTERM)
            return False
        self._adopt(kept, left.pid)
        return True

    def _adopt(self, kept: Kept, pid: int) -> None:
        try:
            self._watch(kept, pid, ours=False)
        except OSError:
            self._again(kept, "cannot be watched")

    # words

    def _alert(self, text: str) -> None:
        """A line in the log of qmail-send; in that of the machine where there is no qmail-send."""
        if not self._tell(supervision.format_alert(text.encode())):
            import syslog

            syslog.openlog(TITLE, 0, syslog.LOG_MAIL)
            syslog.syslog(syslog.LOG_ALERT, "alert: " + text)

    def _tell(self, record: bytes, fd: int | None = None) -> bool:
        if self._link is None:
            return False
        try:
            socket.send_fds(self._link, [record], [] if fd is None else [fd], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True


def prepare(helper: Helper, feed: socket.socket | None) -> None:
    """In the child: a fresh program's signals and descriptors, and no more memory than it should need."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if feed is not None:
        os.dup2(feed.fileno(), 0)
    os.closerange(0 if feed is None else 1, HIGHEST)
    while os.open("/dev/null", os.O_RDWR) < STANDARD - 1:
        pass
    limit_memory(helper.memory_bytes)


def how_it_ended(code: int) -> str:
    """In words, from the exit code or the negative number of a signal."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with {code}"


def wanted_helpers(home: str, known: Callable[[bytes], bool], *, told: bool) -> list[Helper]:
    """The helpers that ``home`` is to have; those that qmail-send must tell something only where it can."""
    return [
        helper for helper in HELPERS if known(helper.name) and helper.configured(home) and (told or helper.outlives)
    ]


def supervisors(home: str, queue: str) -> list[processes.Process]:
    """The other supervisors of ``home``, those of earlier versions too. Only processes of our own user are believed."""
    queue = os.path.realpath(queue)
    return [
        process
        for process in processes.all_processes()
        if process.uid == os.geteuid()
        and process.pid == process.session
        and process.pid not in (os.getpid(), os.getppid())
        and (process.name == TITLE or b"/qmail-start" in process.title)
        and processes.directory_of(process.pid) == queue
    ]


def serving(home: str, helper: Helper) -> processes.Process | None:
    """The process that answers as ``helper``; None when there is none, or none that we may see."""
    pid = listener(home, helper)
    return processes.look(pid) if pid is not None else None


def is_left_behind(process: processes.Process) -> bool:
    """Whether whoever started ``process`` has gone.

    A supervised service leads its own session, or is the child of its supervisor.
    """
    return process.parent == 1 and process.session not in (process.pid, 1) and processes.look(process.session) is None


def is_of_our_build(pid: int) -> bool:
    """Whether ``pid`` runs from the same copy of the package as we do."""
    return processes.build_of(pid) == processes.build_of(os.getpid())
