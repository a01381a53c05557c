"""After an upgrade: which control files this version knows that the one before did not, and that are off (qmail-setup).

A control file that is missing leaves its feature off, so that an upgraded tree behaves as before. What the version
before knew is read, as text, from the library that its launchers named; no list has to be kept.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from pyqmail.admin.control_files import BY_NAME, ControlFile

MAKERS = ("_line", "_number", "_list", "ControlFile", "_refused")  # the last one makes a database of it, too
TABLE = "pyqmail/admin/control_files*.py"


def installed_library(root: Path) -> Path | None:
    """The library that the launchers below ``root`` name; None when there is no tree of ours, or only half of one."""
    try:
        text = (root / "bin" / "qmail-send").read_text()
    except (OSError, ValueError):
        return None
    name = text.partition("/lib/pyqmail-")[2].partition("'")[0]
    library = root / "lib" / f"pyqmail-{name}"
    return library if name.isalnum() and any(library.glob(TABLE)) else None


def news(before: Path | None, root: Path) -> Iterator[str]:
    """A line for each control file that is new since the library ``before`` and missing below ``root``."""
    if before is None:
        return
    try:
        known = {name for path in before.glob(TABLE) for name in known_names(path.read_text())}
    except (OSError, ValueError, SyntaxError):
        return
    for entry in BY_NAME.values():
        if entry.name not in known and not (root / "control" / entry.name).exists():
            yield f"new and off: control/{entry.name} ({described(entry)})"


def known_names(text: str) -> set[str]:
    """The names of the control files in the source of a table of them. Raises SyntaxError."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found |= {first.value, first.value + ".cdb"} if node.func.id == "_refused" else {first.value}
    return found


def described(entry: ControlFile) -> str:
    """What a file is for, in the words of qmail-showctl, and who reads it."""
    words = entry.before.strip().rstrip(":").removesuffix(" is").removesuffix(" are")
    return f"{words}; {', '.join(entry.readers)}" if words else ", ".join(entry.readers)
