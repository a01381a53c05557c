"""The workers of qmail-rcptd: each answers question after question with the maps that it was forked with."""

import gc
import os
import select
import signal
import socket
from collections.abc import Mapping

from pyqmail.control import ControlUnreadable
from pyqmail.local.existence import Lookup
from pyqmail.local.srs_addresses import SrsAddresses
from pyqmail.policy.accounts import Accounts
from pyqmail.policy.classify import Routing
from pyqmail.protocol.recipients import ACCEPT, NOBODY, QUESTION_MAX, SRS, UNSURE, parse_question
from pyqmail.system import foreign
from pyqmail.system.process import address_space, close_all_but, limit_memory

WORKERS = 2
PAUSE_S = 0.5  # before a worker that died is replaced
OUTDATED = 3  # what a worker exits with
LOOKUP_S = 5  # that a look-up may take; whoever asked waits less
GROWTH_MAX = 64 << 20  # bytes of address space that the answers may take, beside the maps


def answer_questions(sock: socket.socket, lifeline: int, lookup: Lookup, srs: SrsAddresses) -> int:
    """A worker: answer one question at a time until the other end of ``lifeline`` is closed, or its holder dead.

    It ends between questions only, so that none is lost when the maps change; but a look-up that hangs ends it by
    SIGALRM, whose action is the default, and nobody is refused for that one. OUTDATED where control/ says something
    else of SRS by now, which only a new qmail-rcptd can read.
    """
    waiting = select.epoll()
    waiting.register(sock, select.EPOLLIN | select.EPOLLEXCLUSIVE)  # a question wakes one worker
    waiting.register(lifeline, select.EPOLLIN)
    while all(descriptor != lifeline for descriptor, _ in waiting.poll()):
        try:
            data, ancillary, _, sender = sock.recvmsg(
                QUESTION_MAX, foreign.RIGHTS_SPACE, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            continue  # another worker was quicker
        if ancillary:  # from one of the system's own; taken only to be closed where nobody waits for it
            foreign.close_aside(foreign.rights_of(ancillary))
        question = parse_question(data)
        if question is None or not sender:
            continue
        number, recipient, kind = question
        signal.alarm(LOOKUP_S)  # it kills: an interrupted getpwnam(3) would say that there is no such user
        outdated = kind == SRS and not srs.current()
        if outdated:
            answer = UNSURE
        elif kind == SRS:
            answer = judge_srs(lookup, srs, recipient)
        else:
            answer = NOBODY if is_nobody(lookup, recipient) else ACCEPT
        signal.alarm(0)
        try:
            sock.sendto(number + answer, socket.MSG_DONTWAIT, sender)
        except OSError:
            pass  # whoever asked has gone
        if outdated:
            return OUTDATED
    return 0


def judge_srs(lookup: Lookup, srs: SrsAddresses, recipient: bytes) -> bytes:
    """The answer about a recipient in the domain of SRS: nobody's, too, is an address that was not made here."""
    try:
        if not srs.made_here(recipient.rpartition(b"@")[0]):
            return NOBODY
    except Exception:  # a bug, too, must not let anybody relay
        return UNSURE
    return NOBODY if is_nobody(lookup, recipient) else ACCEPT


def is_nobody(lookup: Lookup, recipient: bytes) -> bool:
    """The answer; whatever goes wrong, only a definite no refuses."""
    try:
        return lookup.nobody(recipient)
    except Exception:  # a bug must not refuse mail
        return False


class RecipientWorkers:
    """The forked workers, all with the same maps. Those with older ones end after the question that they are at."""

    def __init__(self, home: str, accounts: Accounts, sock: socket.socket, srs: SrsAddresses) -> None:
        self.outdated = False  # a new qmail-rcptd, which starts as root, has to take this one's place
        self._srs = srs
        self._home = home
        self._accounts = accounts
        self._sock = sock
        self._routing: Routing | None = None
        self._lookup: Lookup | None = None
        self._lifeline = os.pipe()
        self._current: dict[int, int] = {}  # a descriptor that tells the end of a process, and the process
        self._retired: dict[int, int] = {}

    def wait(self) -> list[int]:
        """What there is to do: 0 for a record, descriptors for ``collect``, nothing when ``tend`` may help by now."""
        short = len(self._current) < WORKERS
        return select.select([0, *self._current, *self._retired], [], [], PAUSE_S if short else None)[0]

    def renew(self, routing: Routing) -> None:
        """Start workers that know ``routing``, and let the others end."""
        self._kill(self._retired)  # still not done since the maps before: stuck in a look-up
        self._retired |= self._current
        self._current = {}
        for fd in self._lifeline:
            os.close(fd)
        self._lifeline = os.pipe()
        self._routing, self._lookup = routing, None
        self.tend()

    def tend(self) -> None:
        """Start the workers that are missing, as far as it goes: where nobody answers everybody is accepted."""
        try:
            if self._lookup is None and self._routing is not None:
                self._lookup = Lookup(self._home, self._accounts, self._routing)
                gc.freeze()
            self._fill()
        except (ControlUnreadable, OSError):
            return

    def collect(self, descriptor: int) -> None:
        """A worker has ended; if it was needed, ``tend`` may put another in its place."""
        needed = descriptor in self._current
        pid = self._current.pop(descriptor) if needed else self._retired.pop(descriptor)
        os.close(descriptor)
        self.outdated |= os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == OUTDATED
        if needed and not self.outdated:
            select.select([], [], [], PAUSE_S)

    def end(self) -> None:
        """Kill them all: they hold nothing."""
        self._kill(self._current | self._retired)

    def _kill(self, workers: Mapping[int, int]) -> None:
        for pid in workers.values():
            os.kill(pid, signal.SIGKILL)  # not collected yet, so the number is still its own

    def _fill(self) -> None:
        while self._lookup is not None and len(self._current) < WORKERS:
            pid = os.fork()
            if pid == 0:
                self._child(self._lookup)
            try:
                self._current[os.pidfd_open(pid)] = pid
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise

    def _child(self, lookup: Lookup) -> None:
        code = 0
        try:
            keep = (1, 2, self._sock.fileno(), self._lifeline[0])
            close_all_but(keep)
            os.open("/dev/null", os.O_RDONLY)
            limit_memory(address_space() + GROWTH_MAX)
            code = answer_questions(self._sock, self._lifeline[0], lookup, self._srs)
        finally:
            os._exit(code)
