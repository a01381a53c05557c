"""Waiting for what has no descriptor to wait for."""

import select
import time
from collections.abc import Callable

DEADLINE_S = 60.0


def wait_for(condition: Callable[[], object], what: str, seconds: float = DEADLINE_S) -> None:
    """Return when ``condition`` holds; fail the test, naming ``what``, when it does not within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"timed out waiting for {what}"
        select.select([], [], [], 0.01)  # a bounded, short wait that is no guess: the condition is asked again
