"""What happens to one connection of tcpserver, in the process that serves it."""

import _socket
import errno
import os
from collections.abc import Mapping

from pyqmail.stream.standard import as_usual
from pyqmail.system.process import HIGHEST, find_program, reset_signals
from pyqmail.tcp.admission import Admission, Dropped, Ends, Unannounced, ends_of
from pyqmail.tcp.chain import Chain
from pyqmail.tcp.command_line import Options
from pyqmail.tcp.connection_log import FAILED, ConnectionLog, Peer, write_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.tcp.crowd import Crowd
    from pyqmail.tcp.proxy import ProxyDoor

DENIED = 100  # what a connection that the rules deny ends with
REASONS = {errno.ENOENT: "file does not exist", errno.EADDRINUSE: "address already used"}  # where ours differ


class ConnectionServer:
    """What happens to one connection, in the process that serves it."""

    def __init__(
        self,
        options: Options,
        environ: Mapping[bytes, bytes],
        admission: Admission,
        chain: Chain | None,
        crowd: "Crowd | None" = None,
        door: "ProxyDoor | None" = None,
    ) -> None:
        self._program = options.program
        self._path = environ.get(b"PATH")
        self._verbosity = options.verbosity
        self._admission = admission
        self._chain = chain
        self._crowd = crowd
        self._door = door
        self._farewell = environ.get(b"DIEMSG", b"")

    def serve(self, connection: _socket.socket, peer: Peer, log: ConnectionLog) -> int:
        """Serve ``connection``, which is our client, unless there are too many of its kind; the exit code."""
        try:
            ends = ends_of(connection, peer) if self._door is None else self._door.ends(connection, peer)
        except Dropped as error:
            return self._drop(log, str(error))
        except OSError as error:
            return self._drop(log, reason(error))
        except Unannounced:
            return FAILED
        crowd = self._crowd
        if crowd is None or ends.check:
            return self._serve(connection, ends, log)
        try:
            if crowd.enter(ends.remote[0]) and not self._admission.trusts(ends.remote[0]):
                return self._send_away(connection, ends, log)
            return self._serve(connection, ends, log)
        finally:
            crowd.leave()

    def _send_away(self, connection: _socket.socket, ends: Ends, log: ConnectionLog) -> int:
        from pyqmail.tcp.crowd import send_away

        send_away(connection, self._farewell)
        return self._drop(log, f"too many from {ends.remote[0]}")

    def _drop(self, log: ConnectionLog, why: str) -> int:
        self._warn(log, f"dropping connection, {why}")
        return FAILED

    def _serve(self, connection: _socket.socket, ends: Ends, log: ConnectionLog) -> int:
        try:
            say = log.log if self._verbosity >= 2 and not ends.check else None
            environ = self._admission.admit(connection, ends, say)
        except Dropped as error:
            return self._drop(log, str(error))
        except OSError as error:
            return self._drop(log, reason(error))
        if environ is None:
            return DENIED
        chain = self._chain
        if chain is None or not chain.unchanged(environ):
            if chain is not None:
                log.outdated()
            return self._execute(environ, log)
        try:
            return chain.run(environ)
        except BaseException:  # a bug ends this process, loudly, and nothing else
            import traceback

            write_log(traceback.format_exc().encode("utf-8", "replace"))
            os._exit(FAILED)

    def _execute(self, environ: dict[bytes, bytes], log: ConnectionLog) -> int:
        """Become the program, found by the server's own PATH."""
        path = find_program(self._program[0], self._path)
        why = "file does not exist"
        if path is not None:
            try:
                as_usual()
                reset_signals()
                os.closerange(3, HIGHEST)
                os.execve(path, self._program, environ)
            except OSError as error:
                why = reason(error)
        name = os.fsdecode(self._program[0])
        if self._verbosity >= 1:
            write_log(warning(f"dropping connection, unable to run {name}: {why}"))
        os._exit(FAILED)

    def _warn(self, log: ConnectionLog, text: str) -> None:
        if self._verbosity >= 1:
            log.log(warning(text))


def warning(text: str) -> bytes:
    """A line for the log."""
    return f"tcpserver: warning: {text}\n".encode("utf-8", "surrogateescape")


def reason(error: OSError) -> str:
    """Why, in the words of ucspi-tcp."""
    return REASONS.get(error.errno or 0) or os.strerror(error.errno or 0).lower()
