"""A connection in two halves: one has the key and TLS with the client, the other the program, which talks in clear.

The half with the key is a process of its own, qmaild, and copies between the client's socket and a socket pair. So a
program that is root and runs other people's programs never has OpenSSL read a stranger's bytes, nor a key in memory.

TLS in the middle is asked for over a third descriptor. ``ASK``: the half reads no more of the client, and says
``QUIET`` when the program has been handed everything that came; ``GO``: it shakes hands and says ``SECURED``, or
``NONE`` when there is nothing to show, and copies on in clear.
"""

import _signal
import fcntl
import os
import select
import socket
import stat
import time
from collections.abc import Callable

from pyqmail.control import ControlUnreadable
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.stream.descriptors import DescriptorStream
from pyqmail.stream.stream import CHUNK, HANDSHAKE_S, Stream, StreamEnded
from pyqmail.stream.tls import TlsStream
from pyqmail.system.process import become, close_all_but
from pyqmail.tcp.records import Records

ASK, QUIET, GO, SECURED, NONE = b"S", b"A", b"G", b"Y", b"N"
IDLE_S = 1260.0  # a minute more than programs wait, so that it is they who end a silent session
SESSION_S = 86400.0  # for all of it
LAST_S = 60.0  # without progress, for what is left to be sent when one side has ended
ANSWER_S = 2 * HANDSHAKE_S  # for an answer of the half
HIGH_FD = 10  # the program's own descriptors are below

# Says its second argument on the stream and shakes hands; None, before anything was said, if there is no certificate.
Begin = Callable[[Stream, bytes], TlsStream | None]


class HalfUser:
    """Whom a half becomes. ``inherited``: looked up once, before children are forked that would look it up each."""

    inherited: "HalfUser | None" = None

    def __init__(self, home: str) -> None:
        """Raises AccountMissing and ControlUnreadable."""
        accounts = read_accounts(home)
        self.home = home
        self._uid, self._gid = accounts.uid_daemon, accounts.gid_nofiles

    def become(self) -> None:
        """Raises OSError."""
        become(self._uid, self._gid, [self._gid])


class Halves:
    """What the program's half has of the other one."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self._pid = pid
        self._control = control

    def quiet(self) -> bool:
        """Have the half stop reading; whether the client has said nothing that was not read. Raises StreamEnded."""
        if self._ask(ASK) != QUIET:
            raise StreamEnded
        return not select.select([0], [], [], 0)[0]

    def secure(self) -> bool:
        """After ``quiet``: whether there is TLS now. If not, everything is as before. Raises StreamEnded."""
        answer = self._ask(GO)
        if answer not in (SECURED, NONE):
            raise StreamEnded
        return answer == SECURED

    def end(self) -> None:
        """Nothing more is said to the client; waits until it has, or has not, taken what was."""
        _shut(socket.socket(fileno=os.dup(0)))
        self._control.close()
        os.waitpid(self._pid, 0)

    def _ask(self, word: bytes) -> bytes:
        try:
            self._control.sendall(word)
            return self._control.recv(1)
        except OSError:
            raise StreamEnded from None


def know_user(home: str) -> None:
    """Have the halves of children's connections know whom to become. Where it cannot be known each says so."""
    try:
        HalfUser.inherited = HalfUser(home)
    except (AccountMissing, ControlUnreadable):
        return


def can_split() -> bool:
    """Whether descriptors 0 and 1 are sockets, which is what the half can copy."""
    try:
        return all(stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in (0, 1))
    except OSError:
        return False


def split(home: str, begin: Begin, ready: bytes, *, implicit: bool) -> Halves:
    """Put a half with the client's socket in front of descriptors 0 and 1, which are the socket pair then.

    ``implicit``: TLS from the start; otherwise ``ready`` is said before the handshake. Raises OSError.
    """
    inner, outer = socket.socketpair()
    asking, asked = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            _become_half(home, outer, asked)
            Half(outer, asked, begin, ready).run(implicit=implicit)
        except StreamEnded:
            pass
        except (OSError, AccountMissing, ControlUnreadable) as error:
            os.write(2, f"tls half: alert: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(0)
    outer.close()
    asked.close()
    os.dup2(inner.fileno(), 0)
    os.dup2(inner.fileno(), 1)
    inner.close()
    control = socket.socket(fileno=fcntl.fcntl(asking.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH_FD))
    asking.close()
    control.settimeout(ANSWER_S)
    return Halves(pid, control)


def _become_half(home: str, outer: socket.socket, asked: socket.socket) -> None:
    """Raises OSError, and as HalfUser does: then there is no half, and the client hears nothing."""
    close_all_but((0, 1, 2, outer.fileno(), asked.fileno()))
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    if os.geteuid() == 0:
        user = HalfUser.inherited
        (user if user is not None and user.home == home else HalfUser(home)).become()


class Half:
    """The copying. Nothing waits for one side while the other could go on, and no side's bytes pile up."""

    def __init__(self, inner: socket.socket, control: socket.socket, begin: Begin, ready: bytes) -> None:
        self._reader, self._writer = socket.socket(fileno=0), socket.socket(fileno=1)
        self._inner = inner
        self._control = control
        self._begin, self._ready = begin, ready
        self._records: Records | None = None
        self._to_client, self._to_inner = bytearray(), bytearray()
        self._client_over = self._inner_over = self._quiet = self._told = False

    def run(self, *, implicit: bool, session_s: float = SESSION_S) -> None:
        """Copy until either side has ended. Raises StreamEnded."""
        deadline = time.monotonic() + session_s
        if implicit and not self._secure(b""):
            raise StreamEnded
        while not self._inner_over or self._to_client:
            over = self._inner_over or self._control.fileno() < 0  # the program may have left more than we have read
            wait_s = min(LAST_S if over else IDLE_S, deadline - time.monotonic())
            ready = self._wait(wait_s) if wait_s > 0 else {}
            if not ready:
                raise StreamEnded
            self._move(ready)
        _shut(self._writer)

    def _wait(self, seconds: float) -> dict[int, int]:
        """The descriptors at which something can be done, and what."""
        wanted: dict[int, int] = {}
        inner, control = self._inner.fileno(), self._control.fileno()
        if not (self._client_over or self._quiet) and max(len(self._to_inner), len(self._to_client)) < CHUNK:
            wanted[0] = select.POLLIN
        if self._to_client:
            wanted[1] = select.POLLOUT
        if not self._inner_over and len(self._to_client) < CHUNK:
            wanted[inner] = select.POLLIN
        if self._to_inner:
            wanted[inner] = wanted.get(inner, 0) | select.POLLOUT
        if control >= 0:
            wanted[control] = select.POLLIN
        poll = select.poll()
        for fd, events in wanted.items():
            poll.register(fd, events)
        return {fd: events & (wanted[fd] | select.POLLHUP | select.POLLERR) for fd, events in poll.poll(seconds * 1000)}

    def _move(self, ready: dict[int, int]) -> None:
        """One step on each side that is ready."""
        inner = ready.get(self._inner.fileno(), 0)
        if 1 in ready:
            _send(self._writer, self._to_client)
        if inner and self._to_inner:
            self._give()
        if inner & ~select.POLLOUT and not self._inner_over:
            self._from_inner()
        if 0 in ready:
            self._from_client()
        if self._control.fileno() in ready:
            self._obey()
        if self._client_over and not self._to_inner and not self._told and not self._inner_over:
            self._told = True
            self._inner.shutdown(socket.SHUT_WR)

    def _give(self) -> None:
        try:
            _send(self._inner, self._to_inner)
        except StreamEnded:  # the program reads no more, but what it has said is still to be sent
            self._to_inner.clear()
            self._client_over = self._told = True

    def _from_inner(self) -> bool:
        """Take what the program says; whether there was anything."""
        data = _receive(self._inner)
        if data is None:
            return False
        self._inner_over = not data
        if self._records is not None:
            data = self._records.seal(data)
        self._to_client += data
        return True

    def _from_client(self) -> None:
        data = _receive(self._reader)
        if data is None:
            return
        self._client_over = not data
        if data and self._records is not None:
            self._open(data)
        else:
            self._to_inner += data

    def _open(self, data: bytes) -> None:
        assert self._records is not None
        plain, over = self._records.open(data)
        self._to_inner += plain
        self._to_client += self._records.waiting()
        self._client_over = self._client_over or over

    def _obey(self) -> None:
        """Do what the program asks for over the third descriptor. Raises StreamEnded."""
        word = _receive(self._control)
        if not word:
            self._control.close()
        elif word == ASK and self._records is None and not self._to_inner:
            self._quiet = True
            self._control.sendall(QUIET)
        elif word == GO and self._quiet:
            secured = self._secure(self._ready)
            self._quiet = False
            self._control.sendall(SECURED if secured else NONE)
        else:
            raise StreamEnded

    def _secure(self, ready: bytes) -> bool:
        """Send all that was said, then shake hands; false if there is no certificate. Raises StreamEnded."""
        while self._quiet and self._from_inner():
            pass
        stream = DescriptorStream(0, 1, IDLE_S, shared=True)
        stream.write(self._to_client)
        stream.flush()
        self._to_client.clear()
        secured = self._begin(stream, ready)
        if secured is not None:
            self._records = Records(secured)
            self._open(b"")
        return secured is not None


def _receive(sock: socket.socket) -> bytes | None:
    """What there is, empty at the end and after an error, None if nothing is there. Nobody waits."""
    try:
        return sock.recv(CHUNK, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _send(sock: socket.socket, data: bytearray) -> None:
    """Send of ``data`` what goes without a wait. Raises StreamEnded."""
    try:
        del data[: sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)]
    except BlockingIOError:
        return
    except OSError:
        raise StreamEnded from None


def _shut(sock: socket.socket) -> None:
    """Say nothing more, whoever else has the socket, and whether or not the peer is still there."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
