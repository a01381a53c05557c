"""Running another program and reading its exit code as the small .qmail programs do. Light imports."""

import os

from pyqmail.system.errors import temporary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNK = 65536
KILL = 9  # SIGKILL
PYTHON_IGNORES = (13, 25)  # SIGPIPE and SIGXFSZ, which programs expect at their defaults; signal is slow to import


class InputTrouble(Exception):
    """Descriptor 0 could not be copied to the end; ``__cause__`` is the OSError."""


def start(command: "Sequence[bytes]", environ: "Mapping[bytes, bytes]", standard_input: int = 0) -> int:
    """The process id of ``command``, found in PATH, reading ``standard_input``. Raises OSError if it cannot run."""
    actions = [] if standard_input == 0 else [(os.POSIX_SPAWN_DUP2, standard_input, 0)]
    return os.posix_spawnp(command[0], list(command), environ, file_actions=actions, setsigdef=PYTHON_IGNORES)


def finish(process: int) -> int:
    """The exit code of ``process``; negative if a signal killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(command: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """The exit code of ``command``; negative if a signal killed it, 111 if it cannot run now, 100 if it never will."""
    try:
        return finish(start(command, environ))
    except OSError as error:
        return exec_failure(error)


def feed(command: "Sequence[bytes]", environ: "Mapping[bytes, bytes]", head: bytes) -> int:
    """The exit code of ``command``, which reads ``head`` and then descriptor 0; negative if a signal killed it.

    Raises OSError if it cannot run. Raises InputTrouble when descriptor 0 cannot be read: the command is killed then,
    since it would take half a message for a whole one.
    """
    from pyqmail.system.files import write_all  # most callers only run something

    source, sink = os.pipe2(os.O_CLOEXEC)
    try:
        process = start(command, environ, source)
    finally:
        os.close(source)
    try:
        write_all(sink, head)
        while chunk := os.read(0, CHUNK):
            write_all(sink, chunk)
    except BrokenPipeError:
        pass  # it has read what it wanted: its exit code counts
    except OSError as error:
        os.kill(process, KILL)
        finish(process)
        raise InputTrouble from error
    os.close(sink)
    return finish(process)


def exec_failure(error: OSError) -> int:
    """The exit code for a program that could not be run."""
    return 111 if temporary(error) else 100
