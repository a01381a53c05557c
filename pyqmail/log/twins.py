"""A log in which each event stands twice, as a classic line and as JSON (control/logformat ``both``), read once."""

from collections import deque

from pyqmail.log.events import Known
from pyqmail.log.stamps import parse_line

REMEMBERED = 256  # classic lines


class Twins:
    """The lines of one log, in their order; the JSON twin of a classic line is left out."""

    def __init__(self) -> None:
        self._classic: deque[Known] = deque(maxlen=REMEMBERED)

    def parse(self, line: str) -> tuple[float | None, Known | None] | None:
        """Time and event of ``line``, as parse_line has them; None for a twin."""
        when, event = parse_line(line)
        if event is not None:
            if not line.rstrip().endswith("}"):
                self._classic.append(event)
            elif event in self._classic:
                self._classic.remove(event)
                return None
        return when, event

    def without(self, text: bytes) -> bytes:
        """Whole lines without the twins among them."""
        lines = text.splitlines(keepends=True)
        return b"".join(line for line in lines if self.parse(line.decode("utf-8", "replace")) is not None)
