"""qmail-send's log on fd 0: whole lines (qmail-log(5))."""

from collections.abc import Callable

from pyqmail.system import files
from pyqmail.system.loop import Loop


class Log:
    """Writes lines; what cannot be written is dropped, since nobody is left to tell."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop: Loop | None = None
        self._pending: list[bytes] = []

    def gather(self, loop: Loop) -> None:
        """From now on the lines of one turn of ``loop`` are one write."""
        self._loop = loop

    def line(self, text: bytes) -> None:
        """Log ``text``, which may hold several lines of one event; the last newline is added."""
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


Line = Callable[[bytes], None]
