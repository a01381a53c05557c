"""Finds what is in todo/: at the start, when the trigger is pulled, and now and then in any case (INTERNALS 3)."""

import os
from collections.abc import Callable, Iterator

from pyqmail.log.events import Alert
from pyqmail.send.means import Means
from pyqmail.spool import sweep
from pyqmail.system.loop import Loop

SCAN_S = 1500  # a scan even if nobody pulls the trigger
SLEEP_S = 10
ASIDE_MAX = 64  # numbers that nothing can be done about, passed by in one look
PULLS_MAX = 65536  # bytes that wait in a FIFO (pipe(7))


class Trigger:
    """The FIFO lock/trigger: readable when pulled, and emptied before a scan.

    A pull between that and the end of the scan stays pending, so none is lost. qmail's own closes and opens it before
    each scan, which are six system calls in place of one; here that is done for a scan that nobody has asked for, since
    somebody may have put another FIFO in its place.
    """

    def __init__(self, loop: Loop, path: str, pulled: Callable[[], None]) -> None:
        self._loop = loop
        self._path = path
        self._pulled = pulled
        self._fds: tuple[int, ...] = ()
        self.reopen()

    def reopen(self) -> None:
        """Open it anew, whatever was there before, and forget the pulls so far; the caller scans next."""
        if self._fds:
            self._loop.remove_reader(self._fds[0])
        for fd in self._fds:
            os.close(fd)
        self._fds = ()
        try:
            reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        self._fds = (reader,)
        try:
            # our own write end: a FIFO without writers would select readable for ever on some kernels
            self._fds = (reader, os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            self._loop.add_reader(reader, self._readable)
        except OSError:
            return

    def _readable(self) -> None:
        try:
            os.read(self._fds[0], PULLS_MAX)
        except OSError:
            self.reopen()
        self._pulled()


class TodoScan:
    """Walks todo/, message by message. ``first``: no walk has ended yet.

    Under load most of what a walk comes across is on its way already: those names are passed by as text.
    """

    def __init__(self, means: Means) -> None:
        self.first = True
        self._means = means
        self._names: Iterator[int] | None = None
        self._taken: set[str] = set()  # names whose messages are on their way
        self._wanted = True
        self._at = 0.0
        self._left: set[int] = set()  # numbers that left todo/ while it is being scanned
        self._aside: set[int] = set()
        self._trigger = Trigger(means.loop, means.layout.trigger, self.want)

    def __len__(self) -> int:
        """How many messages are taken."""
        return len(self._taken)

    def holds(self, number: int) -> bool:
        """Whether ``number`` is taken, and was not given back."""
        return str(number) in self._taken

    @property
    def under_way(self) -> bool:
        """Whether a walk has names left."""
        return self._names is not None

    def next_time(self) -> float:
        """When there is a name to look at."""
        return 0 if self._names is not None or self._wanted else self._at

    def want(self) -> None:
        """Walk once more."""
        self._wanted = True

    def give_back(self, number: int) -> None:
        """Nobody works on ``number`` any more: the next walk may find it again."""
        self._taken.discard(str(number))

    def left(self, number: int) -> None:
        """``number`` is not in todo/ any more, whatever the walk under way says."""
        self._left.add(number)
        self.give_back(number)

    def begin(self, now: float) -> None:
        """Begin a walk if one is wanted or it is time, and none is under way."""
        if self._names is not None or not (self._wanted or now >= self._at):
            return
        if now >= self._at:
            self._trigger.reopen()
        self._wanted = False
        self._left.clear()
        self._at = now + SCAN_S
        self._names = sweep.new(self._means.layout, self._taken)

    def take(self) -> int | None:
        """The next message that nobody works on: the caller does now. None when none is near, or the walk has ended."""
        assert self._names is not None
        try:
            for _ in range(ASIDE_MAX):
                number = next(self._names)
                if not (number in self._left or number in self._aside or self._orphan(number)):
                    self._taken.add(str(number))
                    return number
        except StopIteration:
            self._names = None
            self.first = False
        except OSError:
            self._means.log(Alert(b"unable to opendir todo, sleeping..."))
            self._names = None
            self._at = min(self._at, self._at - SCAN_S + SLEEP_S)
        return None

    def _orphan(self, number: int) -> bool:
        """Set aside an envelope whose message is gone, at start only: later it is a passing trouble."""
        layout, log = self._means.layout, self._means.log
        try:
            if not self.first or not sweep.without_message(layout, number):
                return False
        except OSError:
            return False
        self._aside.add(number)
        try:
            sweep.set_todo_aside(layout, number)
        except OSError:  # todo/ belongs to qmailq: then it stays, and its number cannot be taken again
            log(Alert(b"todo/%d has no message, skipped" % number))
        else:
            log(Alert(b"todo/%d has no message, set aside" % number))
        return True
