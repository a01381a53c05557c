"""One time limit on a whole session, as alarm(2) gives it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeUp(Exception):
    """The session has taken too long."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeUp in the body, wherever it waits, after ``seconds``."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
