"""What a process does to itself: identity, descriptors, signals and its name. No mail words."""

import os
import signal
from collections.abc import Iterable, Sequence

HIGHEST = 1 << 20  # above any descriptor that a process here may have


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Take supplementary ``groups``, ``gid`` and ``uid``, irrevocably. Raises OSError; treat that as fatal."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor except those in ``keep``."""
    low = 0
    for fd in sorted(set(keep)):
        if fd > low:  # CPython 3.11 takes an empty range that starts at 0 for everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, HIGHEST)


def plug_standard_descriptors() -> None:
    """Fill closed descriptors among 0, 1 and 2 with /dev/null (close-on-exec), so that no file lands there."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if fd > 2:
            os.close(fd)
            return


def reset_signals() -> None:
    """Default handlers and an empty mask, as a fresh program expects them; SIGPIPE and SIGXFSZ included."""
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals():
        if signum not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                if signal.getsignal(signum) not in (signal.SIG_DFL, None):
                    signal.signal(signum, signal.SIG_DFL)
            except (OSError, ValueError):
                continue
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def set_title(name: str) -> None:
    """Show ``name`` in ps, where setproctitle is installed."""
    try:
        import setproctitle
    except ImportError:
        return
    setproctitle.setproctitle(name)


def find_program(name: bytes, path: bytes | None) -> str | None:
    """The file that execvp would run for ``name`` under the PATH ``path``; None when there is none."""
    if b"/" in name:
        return os.fsdecode(name)
    for folder in (path if path is not None else b"/bin:/usr/bin").split(b":"):
        candidate = os.fsdecode(folder or b".") + "/" + os.fsdecode(name)
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    return None
