"""How far long work is, as a line on a terminal that is written over and at last taken away; silent without one."""

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    Item = TypeVar("Item")

START_S = 1.0  # what is done sooner needs no line
EVERY_S = 0.2
WIDTH = 30  # of the bar


class Progress:
    """A line on descriptor ``fd`` about ``whole`` steps of ``what``."""

    def __init__(self, what: str, whole: int, fd: int = 2) -> None:
        self._what = what
        self._whole = max(1, whole)
        self._fd = fd
        self._next_at = time.monotonic() + START_S if os.isatty(fd) else float("inf")
        self._shown = False

    def tell(self, done: int) -> None:
        """``done`` steps are behind us."""
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + EVERY_S
        part = min(1.0, done / self._whole)
        bar = "#" * int(part * WIDTH)
        self._write(f"\r{self._what} [{bar:<{WIDTH}}] {done} of {self._whole}, {part:.0%}\x1b[K")
        self._shown = True

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            os.write(self._fd, text.encode())
        except OSError:
            self._next_at = float("inf")  # the terminal has gone


def told(items: "Sequence[Item]", what: str, fd: int = 2) -> "Iterator[Item]":
    """``items``, and how far they are."""
    progress = Progress(what, len(items), fd)
    try:
        for place, item in enumerate(items):
            progress.tell(place)
            yield item
    finally:
        progress.end()


def tell_while(work: "Callable[[], Item]", what: str, whole: int, count: "Callable[[], int]", fd: int = 2) -> "Item":
    """What ``work`` returns, which blocks; meanwhile ``count`` is asked how much is done."""
    if not os.isatty(fd):
        return work()
    import threading

    progress, done = Progress(what, whole, fd), threading.Event()

    def tell() -> None:
        while not done.wait(EVERY_S):
            progress.tell(count())

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        return work()
    finally:
        done.set()
        thread.join()
        progress.end()
