"""qmail-rcptd: tells qmail-smtpd which local recipients are certainly nobody's (qmail-rcptd(8)).

Started by qmail-start with the maps that qmail-send has in force coming on descriptor 0; gone when qmail-send is. It
binds its socket as root and then is qmailp for good, who may look names up and nothing else. A few workers answer one
question after another, so that a slow directory server holds up few; with new maps come new workers.
"""

import gc
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.formats.netstring import NetstringError, scan_length
from pyqmail.local.existence import Lookup
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts
from pyqmail.policy.classify import Routing
from pyqmail.policy.routing_wire import parse_routing
from pyqmail.protocol.recipients import ACCEPT, NOBODY, QUESTION_MAX, SOCKET, parse_question
from pyqmail.system import files, foreign
from pyqmail.system.process import address_space, become, close_all_but, limit_memory, reset_signals, set_title

WORKERS = 2
PAUSE_S = 0.5  # before a worker that died is replaced
GROWTH_MAX = 64 << 20  # bytes of address space that the answers may take, beside the maps
RECORD_MAX = 256 * 1048576  # of maps; more is no record of ours


def answer_questions(door: socket.socket, lifeline: int, lookup: Lookup) -> None:
    """A worker: answer one question at a time until the other end of ``lifeline`` is closed, or its holder dead.

    It ends between questions only, so that none is lost when the maps change.
    """
    waiting = select.epoll()
    waiting.register(door, select.EPOLLIN | select.EPOLLEXCLUSIVE)  # a question wakes one worker
    waiting.register(lifeline, select.EPOLLIN)
    while all(descriptor != lifeline for descriptor, _ in waiting.poll()):
        try:
            data, ancillary, _, sender = door.recvmsg(
                QUESTION_MAX, foreign.RIGHTS_SPACE, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            continue  # another worker was quicker
        if ancillary:  # taken only to be closed where nobody waits for it
            foreign.close_aside(foreign.rights_of(ancillary))
        question = parse_question(data)
        if question is None or not sender:
            continue
        number, recipient = question
        try:
            door.sendto(number + (NOBODY if is_nobody(lookup, recipient) else ACCEPT), socket.MSG_DONTWAIT, sender)
        except OSError:
            continue  # whoever asked has gone


def is_nobody(lookup: Lookup, recipient: bytes) -> bool:
    """The answer; whatever goes wrong, only a definite no refuses."""
    try:
        return lookup.nobody(recipient)
    except Exception:  # a bug must not refuse mail
        return False


class Workers:
    """The forked workers, all with the same maps. Those with older ones end after the question that they are at."""

    def __init__(self, home: str, accounts: Accounts, door: socket.socket) -> None:
        self._home = home
        self._accounts = accounts
        self._door = door
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
        os.waitpid(pid, 0)
        if needed:
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
        try:
            keep = (1, 2, self._door.fileno(), self._lifeline[0])
            close_all_but(keep)
            os.open("/dev/null", os.O_RDONLY)
            limit_memory(address_space() + GROWTH_MAX)
            answer_questions(self._door, self._lifeline[0], lookup)
        finally:
            os._exit(0)


def read_record() -> bytes | None:
    """The next netstring on descriptor 0, None at the end or for anything else."""
    length, colon = 0, None
    try:
        while colon is None:
            digit = os.read(0, 1)
            length, colon = scan_length(length, digit)
            if not digit or length > RECORD_MAX:
                return None
    except (NetstringError, OSError):
        return None
    data = bytearray()
    while len(data) <= length:
        piece = os.read(0, min(1048576, length + 1 - len(data)))
        if not piece:
            return None
        data += piece
    return bytes(data[:-1]) if data.endswith(b",") else None


def bind(home: str) -> socket.socket:
    """The socket under its well-known name, for anyone to ask. Raises OSError."""
    files.unlink_if_present(home + SOCKET)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    before = os.umask(0o111)  # not chmod: the directory is another user's
    try:
        door.bind(home + SOCKET)
    finally:
        os.umask(before)
    return door


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until descriptor 0 ends; 0 then, 111 when it cannot start. Nobody misses it: all are accepted then."""
    reset_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    home = home_of(environ)
    set_title("qmail-rcptd")
    record = read_record()  # a second qmail-send, which ends for want of the lock, never tells us anything
    if record is None:
        return 0
    try:
        accounts = read_accounts(home)
        os.chdir("/")
        door = bind(home)
        if not accounts.single_user:
            become(accounts.uid_passwd, accounts.gid_nofiles, [accounts.gid_nofiles])
    except (OSError, AccountMissing, ControlUnreadable):
        return 111
    return serve(Workers(home, accounts, door), record)


def serve(workers: Workers, record: bytes | None) -> int:
    """New workers for each record, until the records end."""
    try:
        while record is not None:
            workers.renew(parse_routing(record))
            while 0 not in (ready := workers.wait()):
                for descriptor in ready:
                    workers.collect(descriptor)
                workers.tend()
            record = read_record()
        return 0
    except (NetstringError, ValueError, OSError):
        return 111
    finally:
        workers.end()
