"""Whether a recipient that we would accept exists: asked of qmail-rcptd, or of the program in control/rcptcheck.

Only a definite no refuses. No service, no answer in time, a checker that fails: the recipient is accepted.
"""

import _socket
import os
import select
import signal
import struct
import time
from collections.abc import Mapping

from pyqmail.control import Control
from pyqmail.protocol.recipients import ACCEPT, NOBODY, PLAIN, SOCKET, SRS, format_question, parse_answer
from pyqmail.system.process import WorkingIn

ANSWER_S = 2  # how long a session waits for the service, once
CHECKER_S = 10.0  # how long it waits for a checker
CHECKER_REFUSES = 100  # its exit code for a recipient that does not exist


class RecipientClient:
    """A socket to qmail-rcptd of ``home``, opened when it is needed and again when the service is another one."""

    kept: "RecipientClient | None" = None

    def __init__(self, home: str) -> None:
        self.home = home
        self._socket: _socket.socket | None = None
        self._asked = 0

    def close(self) -> None:
        """Give back the socket; an answer that is late goes with it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def nobody(self, recipient: bytes) -> bool | None:
        """Whether ``recipient`` is certainly nobody's; None when there is no answer."""
        answer = self._ask(recipient, PLAIN)
        return None if answer is None else answer == NOBODY

    def made_here(self, recipient: bytes) -> bool | None:
        """The same for one in the domain of SRS, the other way round; None when nobody can say."""
        answer = self._ask(recipient, SRS)
        return answer == ACCEPT if answer in (ACCEPT, NOBODY) else None

    def _ask(self, recipient: bytes, kind: bytes) -> bytes | None:
        """The letter of the answer, None when there is none."""
        for _ in range(2):
            fresh = self._socket is None
            sock = self._socket or self._open()
            if sock is None:
                return None
            self._asked += 1
            try:
                sock.send(format_question(self._asked, recipient, kind), _socket.MSG_NOSIGNAL)
                return parse_answer(sock.recv(64), self._asked)
            except OSError as error:
                self.close()
                if fresh or not isinstance(error, ConnectionError):
                    return None
        return None

    def _open(self) -> "_socket.socket | None":
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            sock.connect(self.home + SOCKET)
            sock.bind(b"")  # any free name: answers need one; only our peer can send there, since we are connected
            limit = struct.pack("ll", ANSWER_S, 0)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, limit)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
        except OSError:
            sock.close()
            return None
        self._socket = sock
        return sock


def client_for(home: str) -> RecipientClient:
    """A client for one session; ``give_back`` it.

    Where control files are kept from job to job (``Control.cache``), the socket to the service is too.
    """
    if Control.cache is None:
        return RecipientClient(home)
    kept = RecipientClient.kept
    if kept is None or kept.home != home:
        kept = RecipientClient.kept = RecipientClient(home)
    return kept


def give_back(client: RecipientClient) -> None:
    """Close the client of a session, unless it is kept."""
    if client is not RecipientClient.kept:
        client.close()


class RecipientCheck:
    """The check of one session. The control file is read when the first recipient comes."""

    def __init__(self, control: Control, home: str, environ: Mapping[bytes, bytes]) -> None:
        self._control = control
        self._home = home
        self._environ = environ
        self._on: bool | None = False if b"QMAILQUEUE" in environ else None  # None: not looked at yet
        self._checker = b""
        self._client: RecipientClient | None = None

    def close(self) -> None:
        """Give back what is this session's own."""
        if self._client is not None:
            give_back(self._client)

    def exists(self, recipient: bytes) -> bool:
        """False only if ``recipient`` is known to be nobody's. Raises ControlUnreadable for control/rcptcheck."""
        if self._on is None:
            self._start()
        if not self._on:
            return True
        if self._client is None:
            return run_checker(self._checker, recipient, self._environ, self._home) != CHECKER_REFUSES
        nobody = self._client.nobody(recipient)
        if nobody is None:
            self._on = False  # not asked again in this session: it would wait each time
        return not nobody

    def _start(self) -> None:
        self._checker = self._control.line("rcptcheck") or b""
        self._on = self._checker != b"off"
        if not self._on or self._checker:
            return
        self._client = client_for(self._home)


def run_checker(program: bytes, recipient: bytes, environ: Mapping[bytes, bytes], directory: str = ".") -> int:
    """The exit code of ``program RECIPIENT``, -1 for any other end and when it has not ended in time.

    It is run in ``directory`` and gets the session's environment, /dev/null on 0 and 1, and the log on 2.
    """
    null = (
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    )
    try:
        with WorkingIn(directory):
            child = os.posix_spawn(
                program,
                [program, recipient],
                dict(environ),
                file_actions=null,
                setpgroup=0,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
    except (OSError, ValueError):
        return -1
    return _end_of(child)


def _end_of(child: int) -> int:
    """The exit code of ``child``, which is killed with its whole group when it takes too long."""
    try:
        watch = os.pidfd_open(child)
    except OSError:
        watch = -1
    try:
        ended = _wait(child, watch)
    finally:
        if watch >= 0:
            os.close(watch)
    if not ended:
        os.killpg(child, signal.SIGKILL)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except OSError:
        return -1
    return status if ended else -1


def _wait(child: int, watch: int) -> bool:
    """Whether ``child`` ended in time; it is not collected."""
    if watch >= 0:
        return bool(select.select([watch], [], [], CHECKER_S)[0])
    deadline = time.monotonic() + CHECKER_S
    while time.monotonic() < deadline:  # without a descriptor to wait for: look
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True
        time.sleep(0.02)
    return False
