"""The conversation of a POP3 client before anybody is known, and the program that checks who it is (qmail-popup(8))."""

import os
import signal

from pyqmail.protocol import pop3
from pyqmail.stream.lines import LineReader
from pyqmail.warm.successors import go_on_as

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol

    from pyqmail.stream.stream import Stream

    class Tls(Protocol):
        """Who can put the conversation under TLS."""

        def quiet(self) -> bool:
            """Whether the client has said nothing that was not read. Raises StreamEnded."""

        def secure(self) -> bool:
            """Whether there is TLS now. Raises StreamEnded."""


CHECK_FD = 3
PIPE_HOLDS = 4096  # bytes that a fresh pipe takes at once, whatever its size
NO, LATER = 1, 111  # what a checker ends with (cr.yp.to/checkpwd/interface.html)
NO_CHECKER = 127  # it could not be executed: no word about a password
USER_MAX = 256  # bytes of a name in the log


class Over(Exception):
    """The conversation ends; ``reply`` is said first."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__(reply)
        self.reply = reply


class Greeter:
    """The conversation before anybody is known."""

    def __init__(
        self, stamp: bytes, command: "Sequence[bytes]", environ: "Mapping[bytes, bytes]", stream: "Stream"
    ) -> None:
        self.tls: Tls | None = None  # where STLS can be had, and has not been
        self.needs_tls = False
        self.apop = True  # whether the greeting has the stamp, and APOP is taken
        # Told of an attempt that came to nothing: result, method and name
        self.note: Callable[[bytes, bytes, bytes], None] = lambda *words: None
        self._stream = stream
        self._lines = LineReader(stream, pop3.LINE_MAX)
        self._stamp = stamp
        self._command = command
        self._environ = environ
        self._user: bytes | None = None

    def converse(self, greeting: bytes) -> None:
        """Greet, then answer until there is nothing left to say. Raises Over, StreamEnded and LineTooLong."""
        self._stream.write(greeting)
        while True:
            self._stream.write(self._answer(self._lines.line()))

    def _answer(self, line: bytes) -> bytes:
        """The reply to ``line``. Raises Over."""
        verb, argument = pop3.parse_command(line)
        if verb in (b"user", b"pass", b"apop"):
            return pop3.TLS_FIRST if self.needs_tls else self._log_in(verb, argument)
        if verb == b"quit":
            raise Over(pop3.OK)
        if verb == b"capa":
            return pop3.CAPABILITIES if self.tls is None else pop3.capabilities_with_tls(user=not self.needs_tls)
        if verb == b"stls" and self.tls is not None:
            return self._start_tls(self.tls)
        return pop3.OK if verb == b"noop" else b"-ERR authorization first\r\n"

    def _start_tls(self, tls: "Tls") -> bytes:
        """STLS (RFC 2595), answered by who shakes hands; then nothing of before counts. Raises Over, StreamEnded."""
        self._stream.flush()
        if self._lines.pending or not tls.quiet():
            raise Over(pop3.BEFORE_TLS)
        if not tls.secure():
            return pop3.NO_TLS
        self.tls, self.needs_tls, self._user = None, False, None
        self._lines = LineReader(self._stream, pop3.LINE_MAX)
        return b""

    def _log_in(self, verb: bytes, argument: bytes) -> bytes:
        """USER, PASS and APOP. Raises Over."""
        if verb == b"user":
            if not argument:
                return pop3.SYNTAX
            self._user = argument
            return pop3.OK
        if verb == b"pass":
            if self._user is None:
                return b"-ERR USER first\r\n"
            if not argument:
                return pop3.SYNTAX
            raise Over(self._check(b"user", self._user, argument))
        if not self.apop:
            return b"-ERR APOP is switched off, use USER and PASS\r\n"
        user, space, digest = argument.partition(b" ")
        if not space:
            return pop3.SYNTAX
        raise Over(self._check(b"apop", user, digest))

    def _check(self, method: bytes, user: bytes, password: bytes) -> bytes:
        """Run the subprogram to its end; what is left to say. Raises StreamEnded."""
        self._stream.flush()  # what we have said stands before what the subprogram says
        try:
            os.close(CHECK_FD)
        except OSError:
            pass
        try:
            reader, writer = os.pipe()
        except OSError:
            return b"-ERR unable to open pipe\r\n"
        if reader != CHECK_FD:
            return b"-ERR unable to open pipe\r\n"
        try:
            child = os.fork()
        except OSError:
            return b"-ERR unable to fork\r\n"
        if child == 0:
            self._become_checker(writer)
        secret = bytearray(b"%b\0%b\0%b\0" % (user, password, self._stamp))
        try:
            if len(secret) > PIPE_HOLDS:
                os.close(reader)  # so that a checker that does not read is a failed write, and no wait without end
            view = memoryview(secret)
            while view:
                view = view[os.write(writer, view) :]
        except OSError:
            return b"-ERR unable to write pipe\r\n"
        finally:
            secret[:] = bytes(len(secret))
            os.close(writer)
        if len(secret) <= PIPE_HOLDS:
            os.close(reader)  # only now: how soon a checker ends must not change the answer
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            return b"-ERR aack, child crashed\r\n"
        if status in (NO, LATER):
            self.note(b"failed" if status == NO else b"deferred", method, user[:USER_MAX])
        return b"-ERR authorization failed\r\n" if status else b""

    def _become_checker(self, writer: int) -> None:
        """Never returns."""
        try:
            os.close(writer)
            os.set_inheritable(CHECK_FD, True)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            go_on_as(self._command, self._environ, keep=(0, 1, 2, CHECK_FD))
        finally:
            os._exit(NO_CHECKER)
