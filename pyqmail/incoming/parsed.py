"""Control files that checks make something of (``Control.made``): complaints about their lines are told once."""

from typing import Protocol

from pyqmail.formats.logline import safe
from pyqmail.incoming.check import Rules


class Parsed(Protocol):
    """What is made of a file. ``complaints`` are the lines that do not count: number, text, why."""

    complaints: list[tuple[int, bytes, str]]


def tell_complaints(rules: Rules, name: str, lines: Parsed) -> None:
    """Let the log hear, once, of the lines that do not count."""
    if not lines.complaints:
        return
    for number, text, why in lines.complaints:
        rules.notes.append(b"alert: control/%b: line %d: %b: %b" % (
            name.encode(), number, safe(text[:100]), safe(why.encode())))  # fmt: skip
    lines.complaints.clear()
