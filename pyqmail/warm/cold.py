"""Running a program the classic way, fork and exec, where it is not ours to serve from a warm worker."""

import _signal
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyqmail.system.alarm import LastingAlarm
from pyqmail.system.loop import Loop
from pyqmail.system.process import become, ignore_signals, reset_signals
from pyqmail.system.processes import kill_family

Done = Callable[[int | None], None]
# Not SIGXFSZ: qmail-local, which alone ignores it, does so from the beginning of each job.
_USED = (_signal.SIGALRM, _signal.SIGCHLD, _signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)
NULL = -1  # in place of a descriptor: /dev/null


@dataclass(frozen=True, slots=True)
class Program:
    """What to execute and as whom; each exit code says which step of the child failed."""

    path: str
    argv: Sequence[bytes]
    environ: Mapping[bytes, bytes]
    standard: tuple[int, int, int]  # the child's 0, 1 and 2: descriptors above 2, or NULL
    directory: str | None = None
    identity: tuple[int, int] | None = None  # uid and gid, the gid being the only supplementary group as well
    setup_exit: int = 111
    descriptor_exit: int = 111
    exec_exit: int = 111


def start_program(loop: Loop, program: Program, done: Done) -> Callable[[], None]:
    """Fork and execute ``program``; ``done`` gets its exit status, None if it was killed. Raises OSError.

    What it returns kills the program and its descendants; to be called only while ``done`` was not.
    """
    pid = os.fork()
    if pid == 0:
        _child(program)
    try:
        watch = os.pidfd_open(pid)
    except OSError:  # no descriptor to spare, or an old kernel: look now and then
        loop.call_later(0.05, lambda: _look(loop, pid, done))
    else:
        loop.add_reader(watch, lambda: _ended(loop, pid, watch, done))
    return lambda: kill_family(pid)


def _status(code: int) -> int | None:
    return os.WEXITSTATUS(code) if os.WIFEXITED(code) else None


def _ended(loop: Loop, pid: int, watch: int, done: Done) -> None:
    loop.remove_reader(watch)
    os.close(watch)
    done(_status(os.waitpid(pid, 0)[1]))


def _look(loop: Loop, pid: int, done: Done) -> None:
    found, code = os.waitpid(pid, os.WNOHANG)
    if found:
        done(_status(code))
    else:
        loop.call_later(0.05, lambda: _look(loop, pid, done))


def _child(program: Program) -> None:
    code = program.setup_exit
    try:
        if program.directory is not None:
            os.chdir(program.directory)
        code = program.descriptor_exit
        for target, source in enumerate(program.standard):
            os.dup2(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) if source == NULL else source, target)
        code = program.setup_exit
        if program.identity is not None:
            uid, gid = program.identity
            become(uid, gid, [gid])
        delivery_signals()
        code = program.exec_exit
        os.execve(program.path, list(program.argv), dict(program.environ))
    finally:
        os._exit(code)


def delivery_signals() -> None:
    """The signal state in which qmail-local and qmail-remote have always been started: PIPE ignored, CHLD blocked."""
    reset_signals()
    ignore_signals(_signal.SIGPIPE)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGCHLD,))


def restore_delivery_signals() -> None:
    """The same after a job, which may have used some of these; cheaper than setting everything anew."""
    for signum in _USED:
        handler = _signal.getsignal(signum)
        if handler != _signal.SIG_DFL and not isinstance(handler, LastingAlarm):
            _signal.signal(signum, _signal.SIG_DFL)
    ignore_signals(_signal.SIGPIPE)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, (_signal.SIGCHLD,))
