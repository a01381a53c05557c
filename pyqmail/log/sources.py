"""Where the lines of a log come from: a directory of multilog or svlogd, a file, the journal (qmail-log(8))."""

import errno
import glob
import io
import os
import select
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

from pyqmail.log.continuations import whole_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gzip import GzipFile

DEFAULT_LOGS = ("/var/log/qmail-send", "/var/log/qmail/qmail-send", "/var/log/qmail")
FOLLOW_S = 0.2  # between two looks at a file that did not grow
LINE_MAX = 1 << 20  # characters of a line that are kept: a torn log may have gigabytes without a line end


def read_directory(path: str, follow: bool) -> Iterator[str]:
    """The lines of a multilog or svlogd directory: what was rotated away, by its time, then ``current``."""
    for name in sorted(name for name in os.listdir(path) if name.startswith("@")):
        try:
            with open_text(f"{path}/{name}", ordinary=True) as file:
                yield from lines_of(file)
        except FileNotFoundError:
            continue  # the logger removed it meanwhile
    yield from read_file(f"{path}/current", follow, ordinary=True)


def lines_of(file: TextIO) -> Iterator[str]:
    """The lines of a file; of one that is longer than LINE_MAX the beginning."""
    begins = True
    while line := file.readline(LINE_MAX):
        if begins:
            yield line
        begins = line.endswith("\n")


def open_ordinary(path: str) -> int:
    """A descriptor to read the ordinary file ``path``; OSError (ESPIPE) for anything else, and nothing is waited for.

    For files that nobody has named: whoever writes the logs could have put a FIFO or a device in the place of one.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ESPIPE, "Is no ordinary file", path)
    return fd


def open_text(path: str, *, ordinary: bool = False) -> TextIO:
    """A file of log lines, one that gzip has compressed too. Raises OSError, at the first read for a torn one."""
    if not path.endswith(".gz"):
        return open(open_ordinary(path) if ordinary else path, encoding="utf-8", errors="replace")
    if ordinary:
        return io.TextIOWrapper(open_packed(path), encoding="utf-8", errors="replace")
    import gzip

    return gzip.open(path, "rt", encoding="utf-8", errors="replace")


def open_packed(path: str) -> "GzipFile":
    """An ordinary file that gzip has compressed. Raises OSError."""
    import gzip

    source = open(open_ordinary(path), "rb", buffering=0)
    packed = gzip.GzipFile(fileobj=source, mode="rb")
    packed.myfileobj = source  # closed with it
    return packed


def read_file(path: str, follow: bool, *, ordinary: bool = False) -> Iterator[str]:
    """The lines of a file; with ``follow`` what is added to it, and to the one that takes its place.

    ``ordinary``: it has to be an ordinary file.
    """
    if path.endswith(".gz"):
        with open_text(path) as compressed:
            yield from lines_of(compressed)
        return
    file = open_text(path, ordinary=ordinary)  # another may take its place
    try:
        partial = ""
        while True:
            line = file.readline(LINE_MAX)
            if line:
                partial += line if len(partial) < LINE_MAX else ""
                if line.endswith("\n"):
                    yield partial
                    partial = ""
            elif not follow:
                if partial:
                    yield partial
                return
            elif replaced(file.fileno(), path):
                for line in lines_of(file):
                    yield partial + line
                    partial = ""
                if partial:
                    yield partial
                partial = ""
                file.close()
                file = open_text(path, ordinary=ordinary)
            else:
                select.select([], [], [], FOLLOW_S)
    finally:
        file.close()


def replaced(fd: int, path: str) -> bool:
    """Whether ``path`` is another file than ``fd`` now."""
    try:
        now, then = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino)


def read_journal(unit: str, follow: bool) -> Iterator[str]:
    """The lines that a unit has in the journal."""
    words = ["journalctl", "-o", "short-unix", "--no-pager", "-u", unit, *(["-f", "-n", "all"] if follow else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, encoding="utf-8", errors="replace") as journal:
        assert journal.stdout is not None
        yield from (line for line in journal.stdout if not line.startswith("--"))


def usual_logs() -> list[str]:
    """Every directory of /var/log with a log of one of our services. Raises FileNotFoundError when there is none."""
    found = [path for place in ("/var/log", "/var/log/qmail") for path in sorted(glob.glob(f"{place}/qmail-*"))]
    found = [path for path in found if os.path.exists(f"{path}/current")]
    if not found:
        raise FileNotFoundError(2, "no log here; name one", "/var/log/qmail-*")
    return found


def default_log() -> str:
    """The log of qmail-send in the usual places. Raises FileNotFoundError."""
    for name in DEFAULT_LOGS:
        if os.path.exists(f"{name}/current"):
            return name
    raise FileNotFoundError(2, "no log here; name one, or a unit", DEFAULT_LOGS[0])


def open_source(log: str | None, unit: str | None, *, follow: bool) -> Iterator[str]:
    """The lines to read. Raises FileNotFoundError when no log is named and none is in the usual places."""
    return whole_lines(_lines(log, unit, follow=follow))


def _lines(log: str | None, unit: str | None, *, follow: bool) -> Iterator[str]:
    if unit:
        return read_journal(unit, follow)
    path = log or default_log()
    if path == "-":
        return iter(sys.stdin)
    return read_directory(path, follow) if os.path.isdir(path) else read_file(path, follow)
