"""Where events go. A sink takes each event as it happens; what it makes of it is its own affair.

Today there is one, the classic lines on a descriptor.  Another kind, such as JSON, is one more class with ``__call__``.
"""

from collections.abc import Callable
from typing import Protocol

from pyqmail.log.events import Event
from pyqmail.system import files


class BeforeWait(Protocol):
    """A loop that calls back before it waits (system/loop.py)."""

    def before_wait(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, before the next wait."""


class Sink(Protocol):
    """Takes events."""

    def __call__(self, event: Event, /) -> None:
        """``event`` has happened."""


class ClassicSink:
    """Writes lines; what cannot be written is dropped, since nobody is left to tell."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop: BeforeWait | None = None
        self._pending: list[bytes] = []

    def gather(self, loop: BeforeWait) -> None:
        """From now on the lines of one turn of ``loop`` are one write."""
        self._loop = loop

    def __call__(self, event: Event, /) -> None:
        """Write the line of ``event``."""
        self.line(event.format())

    def line(self, text: bytes) -> None:
        """Write ``text``, a line that another program has made; the newline is added."""
        if not self._pending and self._loop is not None:
            self._loop.before_wait(self.flush)
        self._pending.append(text + b"\n")
        if self._loop is None:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        pending, self._pending = self._pending, []
        try:
            if pending:
                files.write_all(self._fd, b"".join(pending))
        except OSError:
            pass
