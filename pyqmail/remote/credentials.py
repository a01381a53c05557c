"""The password of a relay, or what a program prints as its token (qmail-remote(8))."""

import os
import select
import shlex
import signal
import time

from pyqmail.failure import TemporaryFailure
from pyqmail.protocol.sasl_client import Login

TOKEN_S = 30.0  # for the program
TOKEN_MAX = 8192  # bytes: what fits a line of AUTH in base64

NO_TOKEN = b"Unable to get a token for the relay. (#4.3.0)"


def secret_of(login: Login) -> bytes:
    """The password, or the token that the program prints now. Raises TemporaryFailure."""
    if not login.program:
        return login.password
    try:
        token = _run(shlex.split(login.program.decode("utf-8", "surrogateescape")))
    except (OSError, ValueError) as error:
        raise TemporaryFailure(NO_TOKEN) from error
    if not token or len(token) > TOKEN_MAX or not token.isascii() or len(token.split()) != 1:
        raise TemporaryFailure(NO_TOKEN)
    return token


def _run(words: list[str]) -> bytes:
    """What the program prints, without the line end; nothing if it fails. Raises OSError and ValueError."""
    if not words:
        return b""
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
        environ = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        pid = os.posix_spawnp(words[0], words, environ, file_actions=actions, setpgroup=0, setsigdef=[signal.SIGPIPE])
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
        os.close(null)
    try:
        output = _read(reader, time.monotonic() + TOKEN_S)
    finally:
        os.close(reader)
        try:
            os.killpg(pid, signal.SIGKILL)  # it has said what it had to say, or has had its time
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)
    return output.strip()


def _read(fd: int, until: float) -> bytes:
    """All up to the end, but not more than is too much; nothing where the time is over first."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    output = b""
    while poll.poll(max(0.0, until - time.monotonic()) * 1000):
        data = os.read(fd, TOKEN_MAX + 2)
        output += data
        if not data or len(output) > TOKEN_MAX + 1:
            return output
    return b""
