"""One time limit on whatever blocks, a session or a delivery, by SIGALRM.

By the C module, as in system/process.
"""

import _signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeUp(Exception):
    """The time is over."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the body, wherever it waits, after ``seconds``. Main thread only; the old handler comes back."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise TimeUp

    before = _signal.signal(_signal.SIGALRM, stop)
    _signal.setitimer(_signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, before or _signal.SIG_DFL)
