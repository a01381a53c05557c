"""A checkpassword-compatible program, and what it says of a name and a password (cr.yp.to/checkpwd/interface.html).

It reads ``NAME \\0 SECRET \\0`` from descriptor 3, with CRAM-MD5 in use a challenge as a third field, and goes on as
the program that follows in its command line, ``true`` as a rule. Exit code 0 is yes. What is no certain no is an error.
"""

import os
import select
import signal
from collections.abc import Mapping, Sequence

from pyqmail.login.answer import Answer
from pyqmail.protocol.sasl import Credentials
from pyqmail.system.process import WorkingIn, find_program

CHECKER_S = 60.0  # that it may take
REQUEST_FD = 3
# Misuse, trouble, and what a shell says of a program that it cannot run: none of them says that the password is wrong.
UNKNOWN = frozenset((2, 111, 126, 127))


def run_checker(
    command: Sequence[bytes],
    credentials: Credentials,
    environ: Mapping[bytes, bytes],
    directory: str = ".",
    *,
    third: bool,
) -> Answer:
    """The answer of ``command``, which gets ``environ``, /dev/null on 0 and 1, and the log on 2. Never raises.

    Without a log it has /dev/null there, too. It is run in ``directory``. The credentials fit into any pipe
    (``Credentials.possible``), so that nobody waits for a checker that does not read.
    """
    fields = [credentials.user, credentials.secret, *([credentials.challenge] if third else ())]
    try:
        reader, writer = os.pipe()
        try:
            os.write(writer, b"".join(field + b"\0" for field in fields))
            with WorkingIn(directory):
                child = _spawn(command, environ, reader)
        finally:
            os.close(reader)
            os.close(writer)
    except (OSError, ValueError):
        return Answer.LATER
    return _answer(child)


def _spawn(command: Sequence[bytes], environ: Mapping[bytes, bytes], reader: int) -> int:
    path = find_program(command[0], environ.get(b"PATH"))
    if path is None:
        raise FileNotFoundError
    unheard = (1,) if _inherited(2) else (1, 2)  # a file of the checker's there would get its complaints
    return os.posix_spawn(
        path,
        list(command),
        dict(environ),
        file_actions=(
            (os.POSIX_SPAWN_DUP2, reader, REQUEST_FD),
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_WRONLY, 0) for fd in unheard),
        ),
        setpgroup=0,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )


def _inherited(fd: int) -> bool:
    """Whether a program that we execute has it."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def _answer(child: int) -> Answer:
    """Wait for ``child``, which is killed with its whole group when it takes too long."""
    ended = False
    try:
        watch = os.pidfd_open(child)
        try:
            ended = bool(select.select([watch], [], [], CHECKER_S)[0])
        finally:
            os.close(watch)
    except (OSError, ValueError):
        ended = False
    try:
        if not ended:
            os.killpg(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except OSError:
        return Answer.LATER
    if code == 0 and ended:
        return Answer.YES
    return Answer.LATER if not ended or code < 0 or code in UNKNOWN else Answer.NO
