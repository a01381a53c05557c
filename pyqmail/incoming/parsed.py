"""Control files that checks make something of: made once where many sessions are served, and complaints told once."""

from typing import Protocol, TypeVar

from pyqmail.control import Control
from pyqmail.formats.logline import safe
from pyqmail.incoming.check import Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Parsed(Protocol):
    """What is made of a file. ``complaints`` are the lines that do not count: number, text, why."""

    complaints: list[tuple[int, bytes, str]]


Made = TypeVar("Made", bound=Parsed)

# In a process that keeps control files: what was made of each, for as long as the file has not changed.
_MADE: "dict[str, tuple[bytes, Parsed]]" = {}


def read_parsed(rules: Rules, name: str, make: "Callable[[bytes], Made]") -> Made | None:
    """What ``make`` makes of control/``name``; None without the file. Raises ControlUnreadable."""
    data = rules.control.read(name)
    if data is None:
        return None
    if Control.cache is None:
        return make(data)
    known = _MADE.get(name)
    if known is None or known[0] is not data:
        known = _MADE[name] = data, make(data)
    return known[1]  # type: ignore[return-value]  # a name is made into one type


def tell_complaints(rules: Rules, name: str, lines: Parsed) -> None:
    """Let the log hear, once, of the lines that do not count."""
    if not lines.complaints:
        return
    for number, text, why in lines.complaints:
        rules.notes.append(b"alert: control/%b: line %d: %b: %b" % (
            name.encode(), number, safe(text[:100]), safe(why.encode())))  # fmt: skip
    lines.complaints.clear()
