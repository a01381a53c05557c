"""qmail-popup: asks a POP3 client for name and password, and has a program check them (qmail-popup(8), RFC 1939).

    qmail-popup HOST SUBPROGRAM [ARGUMENT ...]

The subprogram reads ``NAME \\0 PASSWORD \\0 <PID.TIME@HOST> \\0`` from descriptor 3 and, if they are right, becomes the
user and goes on as qmail-pop3d. One attempt a connection. The exit status is always 1.
"""

import os
import signal
import time

from pyqmail.protocol import pop3
from pyqmail.stream.descriptors import DescriptorStream
from pyqmail.stream.lines import LineReader, LineTooLong
from pyqmail.stream.stream import StreamEnded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyqmail.stream.stream import Stream

TIMEOUT_S = 1200
CHECK_FD = 3
PIPE_HOLDS = 4096  # bytes that a fresh pipe takes at once, whatever its size
EXIT = 1


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
        self._stream = stream
        self._stamp = stamp
        self._command = command
        self._environ = environ
        self._user: bytes | None = None

    def answer(self, line: bytes) -> bytes:
        """The reply to ``line``. Raises Over."""
        verb, argument = pop3.parse_command(line)
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
            raise Over(self._check(self._user, argument))
        if verb == b"apop":
            user, space, digest = argument.partition(b" ")
            if not space:
                return pop3.SYNTAX
            raise Over(self._check(user, digest))
        if verb == b"quit":
            raise Over(pop3.OK)
        if verb == b"capa":
            return pop3.CAPABILITIES
        return pop3.OK if verb == b"noop" else b"-ERR authorization first\r\n"

    def _check(self, user: bytes, password: bytes) -> bytes:
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
        return b"-ERR authorization failed\r\n" if status else b""

    def _become_checker(self, writer: int) -> None:
        """Never returns."""
        try:
            os.close(writer)
            os.set_inheritable(CHECK_FD, True)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            os.execvpe(self._command[0], list(self._command), dict(self._environ))
        finally:
            os._exit(1)


def converse(greeter: Greeter, greeting: bytes, stream: "Stream") -> None:
    """Greet, then answer until there is nothing left to say. Raises Over, StreamEnded and LineTooLong."""
    stream.write(greeting)
    lines = LineReader(stream, pop3.LINE_MAX)
    while True:
        stream.write(greeter.answer(lines.line()))


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Serve one client on descriptors 0 and 1; always 1."""
    stream = DescriptorStream(0, 1, TIMEOUT_S, shared=True)
    try:
        if len(argv) < 3:
            raise Over(b"-ERR usage: popup hostname subprogram\r\n")
        stamp = b"<%d.%d@%b>" % (os.getpid(), int(time.time()), argv[1])
        try:
            converse(Greeter(stamp, argv[2:], environ, stream), b"+OK " + stamp + b"\r\n", stream)
        except (LineTooLong, MemoryError):
            raise Over(pop3.NO_MEMORY) from None
    except Over as over:
        stream.write(over.reply)
    except StreamEnded:
        return EXIT
    stream.close()
    return EXIT
