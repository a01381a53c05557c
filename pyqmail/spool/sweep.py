"""What a crash left behind: stale messages, envelopes without a message, and the waiting ones (INTERNALS)."""

import os
import re
from collections import deque
from collections.abc import Container, Iterator

from pyqmail.spool.layout import Layout
from pyqmail.system import files

STALE_S = 129600  # 36 hours: longer than any qmail-queue lives
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,18})").fullmatch  # 19 digits: no inode number of 64 bits has more
ASIDE = ".aside"  # no number, so every qmail skips the file


def numbers_in(directory: str, known: Container[str] = ()) -> Iterator[int]:
    """The message numbers among the names in ``directory`` but the ``known``; others are skipped. Raises OSError."""
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            if name not in known and _NUMBER(name):
                yield int(name)


class Waiting:
    """The number of every info file, once and one at a time.

    ``next`` raises OSError for a directory that cannot be read, and goes on with that directory when called again.  One
    that is missing comes last: FileNotFoundError says that nothing else is left, and it may come back.
    """

    def __init__(self, layout: Layout) -> None:
        self._folders = deque(f"{layout.queue}/info/{remainder}" for remainder in range(layout.split))
        self._entries: Iterator[int] | None = None
        self._seen: set[int] = set()  # in this directory
        self._missing = 0  # directories missing one after another

    def __iter__(self) -> "Waiting":
        return self

    def __next__(self) -> int:
        while self._folders:
            if self._entries is None:
                self._entries = numbers_in(self._folders[0])
            try:
                for number in self._entries:
                    if number not in self._seen:
                        self._seen.add(number)
                        return number
            except OSError as error:
                self._entries = None
                if self._postponed(error):
                    continue
                raise
            self._entries = None
            self._seen.clear()
            self._missing = 0
            self._folders.popleft()
        raise StopIteration

    def _postponed(self, error: OSError) -> bool:
        """Whether a directory that is missing was put behind others that may be there."""
        if not isinstance(error, FileNotFoundError) or self._seen:
            return False
        self._missing += 1
        self._folders.rotate(-1)
        if self._missing < len(self._folders):
            return True
        self._missing = 0
        return False


def new(layout: Layout, known: Container[str] = ()) -> Iterator[int]:
    """The number of every todo file but the ``known``, hashed todo/ included, less a missing part of that.

    Raises OSError.
    """
    if not layout.todo_split:
        yield from numbers_in(layout.queue + "/todo", known)
        return
    for remainder in range(layout.split):
        try:
            yield from numbers_in(f"{layout.queue}/todo/{remainder}", known)
        except FileNotFoundError:
            continue


def with_facts(layout: Layout) -> Iterator[int]:
    """The number of every file of facts; a directory that cannot be read has none."""
    for remainder in range(layout.split):
        try:
            yield from numbers_in(f"{layout.queue}/pyqmail/facts/{remainder}")
        except OSError:
            continue


def stale(layout: Layout, now: float) -> Iterator[int | None]:
    """Every message file that nobody owns any more, and None for each other file, so that a caller can pause.

    Any trouble other than "no such file" means: leave it alone.
    """
    for remainder in range(layout.split):
        try:
            for number in numbers_in(f"{layout.queue}/mess/{remainder}"):
                yield number if _stale(layout, number, now) else None
        except OSError:
            continue


def _stale(layout: Layout, number: int, now: float) -> bool:
    try:
        if now <= os.stat(layout.mess(number)).st_atime + STALE_S:
            return False
        return gone(layout.info(number)) and gone(layout.todo(number))
    except OSError:
        return False


def absent(path: str) -> bool:
    """Whether ``path`` certainly does not exist. Raises OSError for any other trouble."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    return False


def gone(path: str) -> bool:
    """Whether ``path`` does not exist, while its directory does. Raises OSError, also where that has gone."""
    if not absent(path):
        return False
    os.stat(os.path.dirname(path))
    return True


def without_message(layout: Layout, number: int) -> bool:
    """Whether mess/N certainly does not exist. Raises OSError, also for a directory that has gone: it may come back."""
    return gone(layout.mess(number))


def set_aside(layout: Layout, number: int) -> None:
    """Keep an info file without its message, and its recipients, from being delivered with another's body.

    The files stay in their directories, as ``N.aside``. Raises OSError.
    """
    for path in (layout.local(number), layout.remote(number), layout.info(number)):
        if not absent(path):
            files.rename(path, path + ASIDE)


def set_todo_aside(layout: Layout, number: int) -> None:
    """The same for todo/N; qmail-send may lack the right to rename it. Raises OSError."""
    files.rename(layout.todo(number), layout.todo(number) + ASIDE)
