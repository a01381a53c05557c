"""qmail-verifyd at work: forked workers that take one question after another, each with one deadline for all look-ups.

A worker that hangs or dies is replaced; whoever had asked it hears nothing, which is temporary. Two workers stay. The
parent stands behind them in the queue of those who wait for clients (EPOLLEXCLUSIVE), so that it wakes when all are
busy: then it makes one more, which ends after a minute without a question.
"""

import gc
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Sequence

from pyqmail.control import ControlUnreadable
from pyqmail.login.failures import network_of
from pyqmail.mailauth.judgement import judge_message, judge_sender
from pyqmail.mailauth.lookups import CachedLookups, LookUp, Question, look_up_within
from pyqmail.mailauth.memory import Memory
from pyqmail.mailauth.network_shares import NetworkShares
from pyqmail.mailauth.report_events import note
from pyqmail.protocol.verification import MESSAGE, RECORD_MAX, SENDER, Pairs, format_pairs, parse_pairs
from pyqmail.resolver import Found
from pyqmail.system.peer import peer_credentials
from pyqmail.system.process import address_space, close_all_but, limit_memory
from pyqmail.system.unnamed import pieces

WORKERS = 12  # questions at once
STAYING = 2  # workers that there always are
IDLE_S = 60.0  # that one of the others is kept without a question
SHARE = 6  # of one network
PAUSE_S = 1.0  # before a worker that died is replaced
GROWTH_MAX = 256 << 20  # bytes of address space that the answers may take
QUESTION_S = 10  # for a client to ask
SENDER_S, MESSAGE_S = 15.0, 20.0  # for all look-ups of one question together
HANGING_S = 60  # then a worker is killed, whatever it does
_PID = struct.Struct("i")


class Workers:
    """The forked workers. ``trusted`` says of a uid whether it is answered."""

    def __init__(self, home: str, listener: socket.socket, trusted: Callable[[int], bool]) -> None:
        self._home = home
        self._listener = listener
        self._trusted = trusted
        self._lifeline = os.pipe()  # its other end closes when we end, however
        self._begun = os.pipe()  # in it each worker says its number, once it has looked for a client
        self._beginning: set[int] = set()  # those that have not said so
        self._running: dict[int, tuple[int, int]] = {}  # what tells the end of a process, the process and its slot
        self._shares = NetworkShares(WORKERS, SHARE)
        self._memory = Memory()  # each worker's copy is its own

    def run(self) -> None:
        """Keep the workers until a signal ends this process. Raises OSError."""
        gc.freeze()
        while True:
            for slot in self._free_slots():
                if slot < STAYING:
                    self._start(slot)
            self._tend()

    def _free_slots(self) -> list[int]:
        return sorted(set(range(WORKERS)).difference(slot for _, slot in self._running.values()))

    def _tend(self) -> None:
        """Wait for the end of a worker, for a beginning, or until all are busy; do what is to be done then."""
        with select.epoll() as queue:
            for fd in (*self._running, self._begun[0]):
                queue.register(fd, select.EPOLLIN)
            if not self._beginning and len(self._running) < WORKERS:
                queue.register(self._listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)  # behind every worker
            ready = {fd for fd, _ in queue.poll()}
        for ended in ready & self._running.keys():
            self._collect(ended)
        if self._begun[0] in ready:
            self._beginning.discard(*_PID.unpack(os.read(self._begun[0], _PID.size)))
        if self._listener.fileno() in ready:
            try:
                self._start(self._free_slots()[0])
            except OSError:
                select.select([], [], [], PAUSE_S)  # the others go on

    def _collect(self, ended: int) -> None:
        pid, slot = self._running.pop(ended)
        status = os.waitpid(pid, 0)[1]
        os.close(ended)
        self._beginning.discard(pid)
        self._shares.free(slot)
        if status != 0:
            select.select([], [], [], PAUSE_S)

    def _start(self, slot: int) -> None:
        pid = os.fork()
        if pid == 0:
            self._child(slot)
        try:
            self._running[os.pidfd_open(pid)] = pid, slot
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._beginning.add(pid)

    def _child(self, slot: int) -> None:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            close_all_but((0, 1, 2, self._listener.fileno(), self._lifeline[0], self._begun[1]))
            limit_memory(address_space() + GROWTH_MAX)
            self._serve(slot)
            code = 0
        finally:
            os._exit(code)

    def _serve(self, slot: int) -> None:
        waiting = select.epoll()
        waiting.register(self._listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        waiting.register(self._lifeline[0], select.EPOLLIN)
        sock = self._accept() if waiting.poll(0) else None  # of the client that made the parent fork
        os.write(self._begun[1], _PID.pack(os.getpid()))
        while True:
            if sock is not None:
                signal.alarm(HANGING_S)
                with sock:
                    self._answer(sock, slot)
                self._shares.free(slot)
                signal.alarm(0)
            ready = [fd for fd, _ in waiting.poll(None if slot < STAYING else IDLE_S)]
            if not ready or self._lifeline[0] in ready:
                return
            sock = self._accept()

    def _accept(self) -> socket.socket | None:
        try:
            return self._listener.accept()[0]
        except OSError:
            return None  # another worker was quicker

    def _answer(self, sock: socket.socket, slot: int) -> None:
        if not self._trusted(peer_credentials(sock)[1]):
            return
        sock.settimeout(QUESTION_S)
        fds: list[int] = []
        try:
            record, fds, _, _ = socket.recv_fds(sock, RECORD_MAX + 1, 1)
            question = dict(parse_pairs(record) or ())
            ip = question.get(b"ip", b"")
            if ip and not self._shares.take(slot, network_of(ip)):
                return
            answer = judged(self._home, question, fds, self._memory)
            if answer is not None:
                sock.send(format_pairs(answer), socket.MSG_NOSIGNAL)
        except (OSError, ControlUnreadable):
            return  # nothing is an answer, too
        finally:
            for fd in fds:
                os.close(fd)


def judged(home: str, question: dict[bytes, bytes], fds: list[int], memory: Memory) -> Pairs | None:
    """The answer to a question; None for one that is none. Raises ControlUnreadable and OSError."""
    about = question.get(b"about")
    if about == SENDER:
        return judge_sender(question, CachedLookups(memory.before(_look_up_late(home, SENDER_S))))
    if about == MESSAGE and len(fds) == 1:
        answer = judge_message(question, pieces(fds[0]), CachedLookups(memory.before(_look_up_late(home, MESSAGE_S))))
        note(home, question, answer)
        return answer
    return None


def _look_up_late(home: str, budget_s: float) -> LookUp:
    """Questions as by look_up_within, which reads whom to ask: not before anything is asked."""
    first: list[LookUp] = []

    def look_up(questions: Sequence[Question]) -> list[Found]:
        if not first:
            first.append(look_up_within(home, budget_s))
        return first[0](questions)

    return look_up
