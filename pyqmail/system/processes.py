"""Which processes there are, as proc(5) shows them to us. No mail words but the name of the installed library.

What lies in a process's own memory, its command line and the list of its files there, cannot be read while one of its
threads holds the lock of that memory, which can be for ever: it takes a page away whose file system (FUSE) does not
answer. So nothing here that ends processes reads any, and nobody waits long for another user's.
"""

import os
import re
import signal

PATIENCE_S = 0.5  # for the first process of another user whose memory cannot be read; the rest of his are not tried
LIBRARY = re.compile(rb"(/[^\n]*)/lib/pyqmail-([0-9A-Za-z]+)/")  # where qmail-setup puts a copy of the package
USER = re.compile(rb"\nUid:\t(\d+)\t")
CHECKOUT = re.compile(rb"(/[^\n]*)/\.deps/")


class Process:
    """One process at the moment of the look."""

    __slots__ = ("_title", "parent", "pid", "session", "ticks", "uid")

    def __init__(self, pid: int, parent: int, session: int, uid: int, ticks: str) -> None:
        self.pid = pid
        self.parent = parent
        self.session = session
        self.uid = uid  # the real one, of whoever started it: its program may be setuid
        self.ticks = ticks  # when it began: with the pid this names one process for ever
        self._title: bytes | None = None

    @property
    def title(self) -> bytes:
        """Its command line, words apart by NUL, or what it wrote over that, when it was first asked for."""
        if self._title is None:
            self._title = read_memory(self.pid, "cmdline", 4096).rstrip(b"\0 ")
        return self._title

    @property
    def name(self) -> str:
        """The first word of the title."""
        return self.title.replace(b"\0", b" ").split(b" ", 1)[0].decode("ascii", "backslashreplace")


def look(pid: int) -> Process | None:
    """The process ``pid``; None when there is none, only its remains, or one that we may not see."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        uid = _user_of(pid)
    except OSError:
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return Process(pid, int(fields[1]), int(fields[3]), uid, fields[19].decode())


def _user_of(pid: int) -> int:
    """The real uid of a process. Raises OSError."""
    with open(f"/proc/{pid}/status", "rb") as file:
        found = USER.search(file.read())
    if found is None:
        raise ProcessLookupError(pid)
    return int(found[1])


_silent: set[int] = set()  # users who have kept somebody waiting here


def read_memory(pid: int, name: str, most: int = -1) -> bytes:
    """What /proc/PID/``name`` shows of the memory of ``pid``, up to ``most`` bytes; nothing where it cannot be had."""
    try:
        uid = _user_of(pid)
    except OSError:
        return b""
    if uid == os.geteuid():
        return _read(pid, name, most)
    if uid in _silent:
        return b""
    import threading

    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(_read(pid, name, most)), daemon=True)
    try:
        reader.start()
    except RuntimeError:
        return b""  # no room for a thread
    reader.join(PATIENCE_S)
    if not found:
        _silent.add(uid)
        return b""
    return found[0]


def _read(pid: int, name: str, most: int) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.read(most) if most >= 0 else file.readall()
    except OSError:
        return b""


def all_processes() -> list[Process]:
    """Every process that we may see, by its pid."""
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return []
    return [process for process in map(look, pids) if process is not None]


def directory_of(pid: int) -> str | None:
    """The working directory of ``pid``; None when we may not know."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def build_of(pid: int) -> tuple[str, str] | None:
    """The tree whose library ``pid`` has in memory, and the library's build; None when there is none to be seen.

    From the kernel's own list of the files in its memory, so that a process cannot say what is not true. A checkout is
    the tree of itself, with the build "checkout".
    """
    text = read_memory(pid, "maps")
    found = LIBRARY.search(_paths(text))
    if found is not None:
        return os.fsdecode(found[1]), found[2].decode()
    found = CHECKOUT.search(_paths(text))
    return (os.fsdecode(found[1]), "checkout") if found is not None else None


def _paths(maps: bytes) -> bytes:
    """The sixth column, a line each."""
    columns = (line.split(None, 5) for line in maps.split(b"\n"))
    return b"\n".join([line[5] for line in columns if len(line) == 6])


def send_signal(process: Process, signum: int) -> None:
    """Signal ``process``, and nobody who has its number by now; one that is stopped goes on."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = look(process.pid)
        if now is not None and now.ticks == process.ticks:
            signal.pidfd_send_signal(handle, signum)
            signal.pidfd_send_signal(handle, signal.SIGCONT)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def descendants(pid: int) -> list[Process]:
    """The children of ``pid``, theirs, and so on, as of this moment.

    By the kernel's lists of children, or by a look at all processes where it keeps none (CONFIG_PROC_CHILDREN).
    """
    listed = os.path.exists("/proc/thread-self/children")
    others: dict[int, list[Process]] = {}
    for process in [] if listed else all_processes():
        others.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    heads = [pid]
    while heads:
        head = heads.pop()
        children = filter(None, map(look, _children_of(head))) if listed else others.pop(head, [])
        for child in children:
            found.append(child)
            heads.append(child.pid)
    return found


def _children_of(pid: int) -> list[int]:
    """Those of all its threads; none where there is no such process."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


def kill_family(pid: int) -> None:
    """Kill the child ``pid``, not collected yet, and its descendants that have its user. It is stopped first."""
    os.kill(pid, signal.SIGSTOP)
    head = look(pid)
    for process in descendants(pid):
        if head is not None and process.uid == head.uid:
            send_signal(process, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
