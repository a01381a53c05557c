"""Running another program and reading its exit code as the small .qmail programs do. Light imports."""

import os

from pyqmail.system.errors import temporary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PYTHON_IGNORES = (13, 25)  # SIGPIPE and SIGXFSZ, which programs expect at their defaults; signal is slow to import


def start(command: "Sequence[bytes]", environ: "Mapping[bytes, bytes]", standard_input: int = 0) -> int:
    """The process id of ``command``, found in PATH, reading ``standard_input``. Raises OSError if it cannot run."""
    actions = [] if standard_input == 0 else [(os.POSIX_SPAWN_DUP2, standard_input, 0)]
    return os.posix_spawnp(command[0], list(command), environ, file_actions=actions, setsigdef=PYTHON_IGNORES)


def finish(process: int) -> int:
    """The exit code of ``process``; 111 if a signal killed it."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code if code >= 0 else 111


def run(command: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """The exit code of ``command``; 111 if a signal killed it or it cannot run now, 100 if it never will."""
    try:
        return finish(start(command, environ))
    except OSError as error:
        return exec_failure(error)


def exec_failure(error: OSError) -> int:
    """The exit code for a program that could not be run."""
    return 111 if temporary(error) else 100
