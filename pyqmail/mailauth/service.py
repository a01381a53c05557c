"""qmail-verifyd at work: forked workers that take one question after another, each with one deadline for all look-ups.

A worker that hangs or dies is replaced; whoever had asked it hears nothing, which is temporary.
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
from pyqmail.system.process import address_space, close_all_but, limit_memory
from pyqmail.system.unnamed import pieces

WORKERS = 12  # questions at once
SHARE = 6  # of one network
PAUSE_S = 1.0  # before a worker that died is replaced
GROWTH_MAX = 256 << 20  # bytes of address space that the answers may take
QUESTION_S = 10  # for a client to ask
SENDER_S, MESSAGE_S = 15.0, 20.0  # for all look-ups of one question together
HANGING_S = 60  # then a worker is killed, whatever it does
_CREDENTIALS = struct.Struct("iII")  # a struct ucred


class Workers:
    """The forked workers. ``trusted`` says of a uid whether it is answered."""

    def __init__(self, home: str, listener: socket.socket, trusted: Callable[[int], bool]) -> None:
        self._home = home
        self._listener = listener
        self._trusted = trusted
        self._lifeline = os.pipe()  # its other end closes when we end, however
        self._running: dict[int, tuple[int, int]] = {}  # what tells the end of a process, the process and its slot
        self._shares = NetworkShares(WORKERS, SHARE)
        self._memory = Memory()  # each worker's copy is its own

    def run(self) -> None:
        """Keep the workers until a signal ends this process. Raises OSError."""
        gc.freeze()
        while True:
            for slot in set(range(WORKERS)).difference(slot for _, slot in self._running.values()):
                self._start(slot)
            for ended in select.select([*self._running], [], [])[0]:
                pid, slot = self._running.pop(ended)
                os.waitpid(pid, 0)
                os.close(ended)
                self._shares.free(slot)
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

    def _child(self, slot: int) -> None:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            close_all_but((0, 1, 2, self._listener.fileno(), self._lifeline[0]))
            limit_memory(address_space() + GROWTH_MAX)
            self._serve(slot)
        finally:
            os._exit(0)

    def _serve(self, slot: int) -> None:
        waiting = select.epoll()
        waiting.register(self._listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        waiting.register(self._lifeline[0], select.EPOLLIN)
        while all(fd != self._lifeline[0] for fd, _ in waiting.poll()):
            try:
                sock, _ = self._listener.accept()
            except OSError:
                continue  # another worker was quicker
            signal.alarm(HANGING_S)
            with sock:
                self._answer(sock, slot)
            self._shares.free(slot)
            signal.alarm(0)

    def _answer(self, sock: socket.socket, slot: int) -> None:
        peer = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if not self._trusted(peer[1]):
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
