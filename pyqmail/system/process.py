"""What a process does to itself: identity, descriptors, signals and its name. No mail words."""

import _signal
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TITLES = "pyqmail._titles"
_SIGNALS = tuple(_signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP})
HIGHEST = 1 << 20  # above any descriptor that a process here may have
CHILD_FAILED = 111


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Take supplementary ``groups``, ``gid`` and ``uid``, irrevocably. Raises OSError; treat that as fatal."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def schedule_as_batch() -> None:
    """SCHED_BATCH (sched(7)) for this process and its children, unless somebody has chosen a policy for it.

    What wakes up then waits for its turn: a program with work to do is not interrupted for each message that one of the
    others gets, and is found with more to do at once.
    """
    try:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        return  # a sandbox forbids it


class Acting:
    """A context in which root acts as ``uid`` with the one group ``gid``; for anybody else nothing changes.

    What stands in directories of that user then leads nowhere where he may not go himself. Contexts may be nested.
    Not for the time when strangers' code runs: root can be taken back. Raises OSError.
    """

    __slots__ = ("_before", "_gid", "_uid")

    def __init__(self, uid: int, gid: int) -> None:
        self._uid = uid
        self._gid = gid

    def __enter__(self) -> None:
        self._before = (os.geteuid(), os.getegid(), os.getgroups()) if os.getresuid()[2] == 0 else None
        if self._before is not None:
            self._take(self._uid, self._gid, [self._gid])

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            self._take(*self._before)

    @staticmethod
    def _take(uid: int, gid: int, groups: Sequence[int]) -> None:
        os.seteuid(0)
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(uid)


class WorkingIn:
    """A context in which the working directory is ``directory``; after it, it is what it was, where we may go there.

    For what is executed: a program of an operator's may be named from there, and find its files there. Raises OSError.
    """

    __slots__ = ("_before", "_directory")

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        try:
            self._before = os.open(".", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            self._before = -1  # we may not search it
        try:
            os.chdir(self._directory)
        except OSError:
            self._go_back()
            raise

    def __exit__(self, *error: object) -> None:
        self._go_back()

    def _go_back(self) -> None:
        if self._before < 0:
            return
        try:
            os.fchdir(self._before)
        except OSError:
            pass  # paths that are kept are absolute
        os.close(self._before)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor except those in ``keep``, in a process that has just forked.

    What the parent's objects still hold is kept from collection: a socket or file among its garbage, collected here,
    would close whatever has its number by then.
    """
    gc.freeze()
    low = 0
    for fd in sorted(set(keep)):
        if fd > low:  # CPython 3.11 takes an empty range that starts at 0 for everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, HIGHEST)


def fork_child(prepare: Callable[[], None], run: Callable[[], int]) -> int:
    """The pid of a child that prepares itself and runs; whatever escapes is exit 111, never the parent's code."""
    pid = os.fork()
    if pid != 0:
        return pid
    code = CHILD_FAILED
    try:
        prepare()
        code = run()
    finally:
        os._exit(code & 255)


def limit_memory(size_bytes: int) -> None:
    """Let this process and its children have at most ``size_bytes`` of address space each."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or hard > size_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (size_bytes, size_bytes))


def address_space() -> int:
    """The bytes of address space that this process has now. Raises OSError."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def plug_standard_descriptors() -> None:
    """Fill closed descriptors among 0, 1 and 2 with /dev/null (close-on-exec), so that no file lands there."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if fd > 2:
            os.close(fd)
            return


def reset_signals() -> None:
    """Default handlers and an empty mask, as a fresh program expects them; SIGPIPE and SIGXFSZ included.

    By the C module: its wrapper's enums would touch, and so copy, a hundred pages in a process that has just forked.
    """
    _signal.set_wakeup_fd(-1)
    for signum in _SIGNALS:
        if _signal.getsignal(signum) not in (_signal.SIG_DFL, None):
            try:
                _signal.signal(signum, _signal.SIG_DFL)
            except (OSError, ValueError):
                continue
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def ignore_signals(*signums: int) -> None:
    """Let each be ignored; by the C module, as in ``reset_signals``."""
    for signum in signums:
        if _signal.getsignal(signum) != _signal.SIG_IGN:
            _signal.signal(signum, _signal.SIG_IGN)


def default_signals(*signums: int) -> None:
    """Let each do what it does by default; by the C module, as in ``reset_signals``."""
    for signum in signums:
        _signal.signal(signum, _signal.SIG_DFL)


def prepare_titles() -> None:
    """Load what ``set_title`` needs, in a parent whose children load and copy nothing after their fork.

    The parent keeps its own name, by which pkill knows it.
    """
    module = _title_module()
    if module is not None:
        name = module.getthreadtitle()
        module.getproctitle()  # it finds out how much room there is, and takes the interpreter's name
        module.setthreadtitle(name)


def set_title(name: str) -> None:
    """Show ``name`` in ps, where setproctitle is installed."""
    module = sys.modules.get(_TITLES) or _title_module()
    if module is not None:
        module.setproctitle(name)


def _title_module() -> "Any":
    """setproctitle's extension module; None without it.

    Loaded by itself: the package around it imports logging and threading, whose handlers at fork would cost each worker
    half a millisecond.
    """
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    package = PathFinder.find_spec("setproctitle")
    found = package and PathFinder.find_spec("_setproctitle", package.submodule_search_locations)
    if not found or found.loader is None:
        return None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    sys.modules[_TITLES] = module
    return module


def find_program(name: bytes, path: bytes | None) -> str | None:
    """The file that execvp would run for ``name`` under the PATH ``path``; None when there is none."""
    if b"/" in name:
        return os.fsdecode(name)
    for folder in (path if path is not None else b"/bin:/usr/bin").split(b":"):
        candidate = os.fsdecode(folder or b".") + "/" + os.fsdecode(name)
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    return None


def cannot_run(name: bytes, program: bytes, error: OSError) -> bytes:
    """What program ``name`` says when it could not become ``program``: one line."""
    missing = isinstance(error, FileNotFoundError)
    reason = "file does not exist" if missing else os.strerror(error.errno or 0).lower()
    return name + b": fatal: unable to run " + program + b": " + reason.encode("utf-8", "replace") + b"\n"


def execute(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> None:
    """Become the program that ``environ``'s PATH finds for ``argv``, with signals as a fresh one expects them.

    Raises OSError, a FileNotFoundError when there is no such program.
    """
    path = find_program(argv[0], environ.get(b"PATH"))
    if path is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(path, list(argv), dict(environ))
