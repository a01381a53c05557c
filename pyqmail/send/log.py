"""qmail-send's log on fd 0: whole lines, one write each (qmail-log(5))."""

from collections.abc import Callable

from pyqmail.system import files


class Log:
    """Writes lines; what cannot be written is dropped, since nobody is left to tell."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def line(self, text: bytes) -> None:
        """Log ``text``, which may hold several lines of one event; the last newline is added."""
        try:
            files.write_all(self._fd, text + b"\n")
        except OSError:
            pass


Line = Callable[[bytes], None]
