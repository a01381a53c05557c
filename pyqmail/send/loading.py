"""What waits in the queue at the start, read in a little per turn, so that new mail need not wait for it."""

import os
import time
from collections.abc import Iterator, Mapping

from pyqmail.log.events import Alert, Warn
from pyqmail.send.means import Means
from pyqmail.send.retry import TROUBLE_S, Schedule
from pyqmail.spool import sweep
from pyqmail.system.typed import Protocol

CHANNELS = ("local", "remote")
SLICE_S = 0.003  # how long a turn may read
SLEEP_S = 10


class Receiver(Protocol):
    """Where the messages go."""

    def holds(self, number: int) -> bool:
        """Whether ``number`` is new, and on its way through todo/."""

    def found(self, number: int, birth: int, due: Mapping[str, int]) -> None:
        """``number``, of that birth, waits in the channels of ``due``."""


class Loading:
    """Reads info/ once, and the files of each message in it."""

    def __init__(self, means: Means, receiver: Receiver) -> None:
        self._means = means
        self._receiver = receiver
        self._numbers: Iterator[int] | None = sweep.Waiting(means.layout)
        self._paused = False
        self._only_missing = False  # nothing else is left to be read
        self._all_due = False  # SIGALRM came meanwhile
        self._accepted: set[int] = set()  # messages that came through todo meanwhile
        self._later = Schedule()  # those that could not be read
        self._unread: set[int] = set()  # the numbers in it; without those that came through todo meanwhile

    @property
    def under_way(self) -> bool:
        """Whether what was found at the start is still being read; a directory that is missing is not waited for."""
        return self._numbers is not None and not self._only_missing

    def next_time(self) -> float:
        """When there is something to do for ``step``."""
        if self._numbers is not None and not self._paused:
            return 0
        return self._later.next_time()

    def accepted(self, number: int) -> None:
        """``number`` came through todo/, and what its files say is known."""
        if self._numbers is not None:
            self._accepted.add(number)
        self._unread.discard(number)

    def make_due(self) -> None:
        """What is still to be read is due at once."""
        self._all_due = self._numbers is not None

    def step(self, now: float) -> None:
        """Read once more what could not be read, and read on for a moment."""
        number = self._later.pop_due(int(now))
        if number is not None and number in self._unread:
            self._unread.discard(number)
            self._load(number)
        if self._numbers is None or self._paused:
            return
        until = time.monotonic() + SLICE_S
        while time.monotonic() < until:
            try:
                number = next(self._numbers)
            except StopIteration:
                self._numbers = None
                self._accepted.clear()
                self._all_due = False
                return
            except OSError as error:
                self._pause(error)
                return
            if number not in self._accepted and not self._receiver.holds(number):
                self._load(number)

    def _pause(self, error: OSError) -> None:
        name = os.path.relpath(error.filename or "info", self._means.layout.queue).encode()
        self._means.log(Alert(b"unable to opendir %b, sleeping..." % name))
        self._paused = True
        self._only_missing = isinstance(error, FileNotFoundError)
        self._means.loop.call_later(SLEEP_S, self._go_on)

    def _go_on(self) -> None:
        self._paused = False

    def _load(self, number: int) -> None:
        """Hand on a message as its files say."""
        layout = self._means.layout
        try:
            if not sweep.absent(layout.todo(number)):
                return
            if sweep.without_message(layout, number):
                self._set_aside(number)
                return
            times = {name: _modified(layout.part(name, number)) for name in CHANNELS}
            birth = _modified(layout.info(number))
        except OSError:
            name = layout.relative("info", number).encode()
            self._means.log(Warn(b"unable to stat %b; will try again later" % name))
            self._unread.add(number)
            self._later.add(number, int(self._means.clock()) + TROUBLE_S)
            return
        if birth is None:
            return  # it has ended since
        due = {name: 0 if self._all_due else when for name, when in times.items() if when is not None}
        self._receiver.found(number, birth, due)

    def _set_aside(self, number: int) -> None:
        # an inode that is used again would send a new body to the old recipients
        name = self._means.layout.relative("info", number).encode()
        try:
            sweep.set_aside(self._means.layout, number)
        except OSError:
            self._means.log(Alert(b"%b has no message; unable to set it aside, skipped" % name))
        else:
            self._means.log(Alert(b"%b has no message, set aside" % name))


def _modified(path: str) -> int | None:
    """The time of ``path``; None when it is not there. Raises OSError, also where its whole directory is not."""
    try:
        return int(os.stat(path).st_mtime)
    except FileNotFoundError:
        os.stat(os.path.dirname(path))
        return None
