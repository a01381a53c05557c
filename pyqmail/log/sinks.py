"""Where events go. A sink takes each event as it happens; what it makes of it is its own affair.

The log is lines on a descriptor: the classic ones, JSON objects, or both (control/logformat, qmail-log(5)).
"""

from collections.abc import Callable

from pyqmail.log.events import Event
from pyqmail.system import files
from pyqmail.system.typed import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.log.json_lines import JsonLines

CLASSIC, JSON, BOTH = FORMATS = b"classic", b"json", b"both"  # control/logformat


def json_lines(form: bytes, program: str, session: str = "") -> "JsonLines | None":
    """What makes the JSON of a log in ``form``; None for the classic one, which imports nothing."""
    if form not in (JSON, BOTH):
        return None
    from pyqmail.log.json_lines import JsonLines

    return JsonLines(program, session)


class BeforeWait(Protocol):
    """A loop that calls back before it waits (system/loop.py)."""

    def before_wait(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, before the next wait."""


class Sink(Protocol):
    """Takes events."""

    def __call__(self, event: Event, /) -> None:
        """``event`` has happened."""


class LineSink:
    """Writes lines; what cannot be written is dropped, since nobody is left to tell."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop: BeforeWait | None = None
        self._pending: list[bytes] = []
        self._classic = True
        self._json: JsonLines | None = None

    def use(self, form: bytes, program: str) -> None:
        """From now on write in ``form`` of control/logformat."""
        self._json = json_lines(form, program)
        self._classic = form != JSON

    def gather(self, loop: BeforeWait) -> None:
        """From now on the lines of one turn of ``loop`` are one write."""
        self._loop = loop

    def __call__(self, event: Event, /) -> None:
        """Write the line of ``event``."""
        if not self._pending:
            self._begin()
        if self._classic:
            self._pending.append(event.format())
        if self._json is not None:
            self._pending.append(self._json.format(event))
        if self._loop is None:
            self.flush()

    def line(self, text: bytes) -> None:
        """Write ``text``, a line that another program has made; the newline is added."""
        if not self._pending:
            self._begin()
        if self._classic:
            self._pending.append(text)
        if self._json is not None:
            self._pending.append(self._json.format_line(text))
        if self._loop is None:
            self.flush()

    def _begin(self) -> None:
        if self._loop is not None:
            self._loop.before_wait(self.flush)

    def flush(self) -> None:
        """Write what has gathered."""
        pending, self._pending = self._pending, []
        try:
            if pending:
                files.write_all(self._fd, b"\n".join(pending) + b"\n")
        except OSError:
            pass
