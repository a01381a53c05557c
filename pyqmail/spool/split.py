"""Into how many subdirectories a queue is split, told from mess, info, local and remote together (INTERNALS 2).

A wrong split misplaces every message, so one odd directory must not change it: the configured split holds as long as
the four parts differ from it by no more than a directory each.  What is odd then, one too many (a restore, a queue
tool) or one missing, is named by ``odd_directories`` and otherwise left alone.
"""

import os

PARTS = ("mess", "info", "local", "remote")


def is_number(name: str) -> bool:
    """Whether ``name`` is a number as this program writes it."""
    return name.isascii() and name.isdigit() and (name == "0" or not name.startswith("0"))


def subdirectories(directory: str) -> set[int] | None:
    """The numbers that are directories in ``directory``; None where it cannot be read."""
    try:
        with os.scandir(directory) as entries:
            return {int(entry.name) for entry in entries if is_number(entry.name) and entry.is_dir()}
    except OSError:
        return None


def count_split(queue: str, configured: int) -> int:
    """The split that the directories of ``queue`` fit best; ``configured`` in all doubt."""
    parts = [subdirectories(f"{queue}/{part}") or set() for part in PARTS]

    def amiss(split: int) -> int:
        return sum(len(part.symmetric_difference(range(split))) for part in parts)

    if amiss(configured) <= len(PARTS):
        return configured
    candidates = {_unbroken(part) for part in parts} | {max(part, default=-1) + 1 for part in parts}
    fitting = {split for split in candidates if 0 < split <= sum(map(len, parts))}
    return min(fitting | {configured}, key=lambda split: (amiss(split), split != configured))


def _unbroken(part: set[int]) -> int:
    """The first number that ``part`` has not."""
    return next(number for number in range(len(part) + 1) if number not in part)


def odd_directories(queue: str, split: int, *, todo_split: bool = False) -> list[tuple[str, bool]]:
    """The directories that do not fit ``split``, as ``info/23``, each with whether it is missing or one too many.

    What may not be read is not judged.
    """
    odd = []
    for part in (*PARTS, "todo", "intd"):
        wanted = set(range(split)) if part in PARTS or todo_split else set()
        there = subdirectories(f"{queue}/{part}")
        odd += [
            (f"{part}/{number}", number in wanted) for number in sorted((there ^ wanted) if there is not None else ())
        ]
    return odd


def describe_odd(name: str, *, missing: bool, split: int) -> str:
    """What is the matter with ``name``, of ``odd_directories``, and what comes of it."""
    if not missing:
        return f"queue/{name} does not belong to a queue split into {split}: nothing in it is seen"
    return f"queue/{name} is missing: messages that belong there wait or are refused for now"
