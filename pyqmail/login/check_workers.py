"""The processes in which qmail-authd has passwords checked: forked from it, a question at a time for each.

Most of them answer one question and end. One that has said yes to an account of the system waits for the next question
about one, since a fork and the pages that are copied after it take longer than PAM does without its hash. It ends after
``QUESTIONS_MAX``, for modules of PAM leak, after ``IDLE_S`` without a question, and after any answer but yes: nothing
of an attempt that failed is in the process that hears the next password.

service -> worker    a question as clients ask it (protocol/logins)
worker -> service    the letter of an Answer; behind it ``STAYS`` from who waits for another question
"""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable

from pyqmail.login import checking
from pyqmail.login.answer import Answer
from pyqmail.protocol.logins import QUESTION_MAX, format_question, parse_question
from pyqmail.protocol.sasl import Credentials
from pyqmail.system.loop import Loop
from pyqmail.system.process import close_all_but, plug_standard_descriptors, reset_signals

CHECK_S = 70  # after that the kernel ends it, PAM's modules included
QUESTIONS_MAX = 100
IDLE_S = 30.0
STAYS = b"+"
Told = Callable[[Answer], None]


class CheckWorker:
    """One of them, as the service sees it."""

    __slots__ = ("idle_since", "line", "pid", "told", "watch")

    def __init__(self, pid: int, line: socket.socket, watch: int) -> None:
        self.pid = pid
        self.line = line
        self.watch = watch  # a descriptor that tells the end
        self.told: Told | None = None  # who waits for the answer
        self.idle_since = 0.0


class CheckWorkers:
    """All of them."""

    def __init__(self, loop: Loop, home: str, *, single_user: bool) -> None:
        self._loop = loop
        self._home = home
        self._single_user = single_user
        self._idle: list[CheckWorker] = []  # the last to become idle at the end
        self._looks = False  # whether a timer looks for who has been idle for too long

    def ask(self, credentials: Credentials, ip: bytes, told: Told) -> None:
        """Have somebody look at ``credentials``, and ``told`` called once, later. Raises OSError, and calls nobody."""
        question = format_question(credentials, ip)
        of_system = checking.of_system(credentials, single_user=self._single_user)
        while of_system and self._idle:
            if self._put(self._idle.pop(), question, told):
                return
        if of_system:
            checking.prepare(self._home)
        if not self._put(self._fork(), question, told):
            raise BrokenPipeError

    def _put(self, worker: CheckWorker, question: bytes, told: Told) -> bool:
        """Whether ``worker`` was there to take it; the end of one that was not is heard of, too."""
        try:
            worker.line.send(question, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        worker.told = told
        return True

    def _fork(self) -> CheckWorker:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
            if pid == 0:
                work(theirs, self._home, single_user=self._single_user)
            worker = CheckWorker(pid, mine, watched(pid))
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        mine.setblocking(False)
        self._loop.add_reader(mine.fileno(), lambda: self._hear(worker))
        self._loop.add_reader(worker.watch, lambda: self._bury(worker))
        return worker

    def _hear(self, worker: CheckWorker) -> None:
        try:
            record = worker.line.recv(len(STAYS) + 1)
        except OSError:
            return
        told = worker.told
        if not record or told is None:
            self._dismiss(worker)
            return
        worker.told = None
        if record[1:] == STAYS:
            self._rest(worker)
        told(Answer(record[:1]))

    def _rest(self, worker: CheckWorker) -> None:
        worker.idle_since = time.monotonic()
        self._idle.append(worker)
        if not self._looks:
            self._looks = True
            self._loop.call_later(IDLE_S, self._look)

    def _look(self) -> None:
        """Dismiss who has had nothing to do for long."""
        now = time.monotonic()
        for worker in [one for one in self._idle if now - one.idle_since >= IDLE_S]:
            self._idle.remove(worker)
            self._dismiss(worker)
        self._looks = bool(self._idle)
        if self._looks:
            self._loop.call_later(self._idle[0].idle_since + IDLE_S - now, self._look)

    def _dismiss(self, worker: CheckWorker) -> None:
        """Say nothing more to it, which ends it where it waits."""
        self._loop.remove_reader(worker.line.fileno())
        worker.line.close()

    def _bury(self, worker: CheckWorker) -> None:
        """After its end: what it has not answered is answered later."""
        if worker.told is not None:
            self._hear(worker)
        self._loop.remove_reader(worker.watch)
        os.close(worker.watch)
        os.waitpid(worker.pid, 0)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.line.fileno() >= 0:
            self._dismiss(worker)
        if worker.told is not None:
            worker.told(Answer.LATER)


def watched(pid: int) -> int:
    """A descriptor that tells the end of our child. Raises OSError; there is no child then."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def work(line: socket.socket, home: str, *, single_user: bool) -> None:
    """What a fresh child does; never returns."""
    try:
        reset_signals()
        kept = fcntl.fcntl(line.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)  # not where a module of PAM might write
        close_all_but((kept,))
        plug_standard_descriptors()
        questions = socket.socket(fileno=kept)
        for left in reversed(range(QUESTIONS_MAX)):
            found = parse_question(questions.recv(QUESTION_MAX))
            if found is None:
                return  # the service has no more
            credentials, ip = found
            signal.alarm(CHECK_S)
            answer = checking.check(home, credentials, ip, single_user=single_user)
            signal.alarm(0)
            yes = answer is Answer.YES and checking.of_system(credentials, single_user=single_user)
            stays = yes and left > 0
            questions.send(answer.value + (STAYS if stays else b""))
            if not stays:
                return
    finally:
        os._exit(0)
