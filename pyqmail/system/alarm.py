"""One time limit on whatever blocks, a session or a delivery, by SIGALRM.

By the C module, as in system/process.
"""

import _signal
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LEAST_S = 0.001  # a timer that is set to nothing never rings


class TimeUp(Exception):
    """The time is over."""


class LastingAlarm:
    """The handler of a process that has one limit after another: its timer runs on from one to the next.

    A limit of the same length as the last one then needs no system call: when the alarm rings it is set anew for what
    is left. Main thread only; a child that executes nothing of it inherits neither.
    """

    def __init__(self) -> None:
        self._until: float | None = None  # monotonic seconds; None between two limits
        self._rings_at = math.inf

    def install(self) -> None:
        """Be the handler from now on."""
        _signal.signal(_signal.SIGALRM, self)

    def begin(self, seconds: float) -> None:
        """Raise TimeUp after ``seconds``, unless ``end`` comes first."""
        self._until = time.monotonic() + seconds
        if self._until < self._rings_at:
            self._ring_in(seconds)

    def end(self) -> None:
        """There is no limit."""
        self._until = None

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        """The alarm rings, or somebody has sent its signal."""
        self._rings_at = math.inf
        if self._until is None:
            return
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeUp
        self._ring_in(left)

    def _ring_in(self, seconds: float) -> None:
        self._rings_at = time.monotonic() + seconds
        _signal.setitimer(_signal.ITIMER_REAL, max(seconds, LEAST_S))


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the body, wherever it waits, after ``seconds``. Main thread only; the old handler comes back."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise TimeUp

    before = _signal.getsignal(_signal.SIGALRM)
    if isinstance(before, LastingAlarm):
        before.begin(seconds)
        try:
            yield
        finally:
            before.end()
        return
    _signal.signal(_signal.SIGALRM, stop)
    _signal.setitimer(_signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, before or _signal.SIG_DFL)
