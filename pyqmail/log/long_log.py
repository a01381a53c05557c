"""A whole log summed up, by two processes where it is long: its files, their halves, and what comes of both."""

import gc
import os
import pickle
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from pyqmail.log.bulk import Bulk, Counting
from pyqmail.log.counts import Counts
from pyqmail.log.sources import LINE_MAX, open_ordinary, open_packed, open_source
from pyqmail.system.process import fork_child
from pyqmail.system.progress import Progress

CHUNK = 1 << 16  # small enough for the caches: with a megabyte it takes a tenth longer
APART_MIN = 32 << 20  # bytes from which on two processes share the work
Piece = tuple[str, int, int]  # a file, and from where to where


def is_of_multilog(log: str) -> bool:
    """Whether ``log``, a directory or a file, begins as multilog begins lines. Raises OSError.

    A pipe does not: what is read of it is gone.
    """
    first = files_of(log)[0]
    if not stat.S_ISREG(os.stat(first).st_mode):
        return False
    with _open(first) as file:
        return file.read(1) == b"@"


def files_of(log: str) -> list[str]:
    """The files of a log in their order: those of a directory of multilog or svlogd, or the one. Raises OSError."""
    if not os.path.isdir(log):
        return [log]
    old = sorted(f"{log}/{name}" for name in os.listdir(log) if name.startswith("@"))
    return [*old, f"{log}/current"]


def halves(files: Iterable[str]) -> tuple[list[Piece], list[Piece]]:
    """What two processes read: about half of the bytes each, in order, cut between two lines. Raises OSError."""
    pieces = [(path, 0, os.stat(path).st_size) for path in files]
    left = sum(size for _, _, size in pieces) // 2
    first: list[Piece] = []
    while pieces and left > 0:
        path, start, end = pieces.pop(0)
        if end <= left or path.endswith(".gz"):
            first.append((path, start, end))
            left -= end
            continue
        with open(path, "rb") as file:
            file.seek(left)
            while (part := file.readline(CHUNK)) and not part.endswith(b"\n"):
                pass  # a torn log may have no line end for long
            cut = file.tell()
        first.append((path, start, cut))
        return first, [(path, cut, end), *pieces]
    return first, pieces


def texts_of(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """All of it, in parts of whole lines, of which one has at most LINE_MAX and CHUNK. Raises OSError."""
    for path, start, end in pieces:
        try:
            file = _open(path)
        except FileNotFoundError:
            continue  # the logger has removed it
        with file:
            file.seek(start)
            left = end - start if not path.endswith(".gz") else 1 << 62
            rest = b""
            while left > 0 and (data := file.read(min(CHUNK, left))):
                left -= len(data)
                whole, newline, after = data.rpartition(b"\n")
                if newline:
                    yield rest + whole + newline
                    rest = after
                elif len(rest) < LINE_MAX:
                    rest += data  # of a line that has no end the beginning counts
            if rest:
                yield rest + b"\n"


def lines_told(log: str) -> Iterator[str]:
    """The lines of any log, in the slow way, and a terminal is told how far it is. Raises OSError."""
    progress = Progress("MiB of the log", sum(os.stat(path).st_size for path in files_of(log)) >> 20)
    done = 0
    try:
        for line in open_source(log, None, follow=False):
            progress.tell(done >> 20)
            done += len(line)
            yield line
    finally:
        progress.end()


def _open(path: str) -> IO[bytes]:
    if not path.endswith(".gz"):
        return open(open_ordinary(path), "rb", buffering=0)
    return open_packed(path)  # type: ignore[return-value]


def told(pieces: list[Piece], what: str) -> Iterator[bytes]:
    """As texts_of, and a terminal is told how far it is; what is compressed counts as long as it comes."""
    progress = Progress(what, sum(end - start for _, start, end in pieces) >> 20)
    done = 0
    try:
        for text in texts_of(pieces):
            progress.tell(done >> 20)
            done += len(text)
            yield text
    finally:
        progress.end()


def sum_up(log: str, make: Callable[[], Counting]) -> Bulk[Counting]:
    """All of ``log``, by two processes if it is long and there are two processors. Raises OSError."""
    gc.disable()  # nothing here is a circle, and looking for one takes a tenth of the time
    try:
        return _sum_up(log, make)
    finally:
        gc.enable()


def _sum_up(log: str, make: Callable[[], Counting]) -> Bulk[Counting]:
    files = files_of(log)
    first, second = halves(files)
    whole = Bulk(make())
    size = sum(end - start for _, start, end in (*first, *second))
    if size < APART_MIN or len(os.sched_getaffinity(0)) < 2:
        for text in told([*first, *second], "MiB of the log"):
            whole.feed(text)
        return whole
    reader, writer = os.pipe()
    pid = fork_child(lambda: os.close(reader), lambda: _count_apart(second, writer, make()))
    os.close(writer)
    with open(reader, "rb") as answer:
        for text in told(first, "MiB of one half"):
            whole.feed(text)
        data = answer.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        for text in texts_of(second):  # it was killed, or could not read: who is left does it, and says why
            whole.feed(text)
        return whole
    whole.go_on(pickle.loads(data))  # noqa: S301  # from our own child
    return whole


def _count_apart(pieces: list[Piece], writer: int, counts: Counts) -> int:
    half = Bulk(counts, inside=True)
    for text in texts_of(pieces):
        half.feed(text)
    with open(writer, "wb") as answer:
        pickle.dump(half, answer, pickle.HIGHEST_PROTOCOL)
    return 0
