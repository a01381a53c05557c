"""Counts by name for the busiest names only: strangers cannot make a table of metrics grow (qmail-metrics(8))."""

from collections import Counter

from pyqmail.log.tables import Tally

OTHERS = "(other)"
NAMES_MAX = 50  # that have counts of their own
ENOUGH = 10  # counted before a name has
NAME_MAX = 255  # characters


class Busiest:
    """Counts by name and result. A name without a place of its own is counted under ``others``.

    Counts only ever grow. A name gets its place before it is counted there, and one that loses it disappears as a
    whole, so that no sum goes back.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.others: Counter[str] = Counter()
        self._recent = Tally()

    def add(self, name: str, result: str) -> None:
        """Count ``result`` for ``name``, whatever its characters."""
        name = "".join(char if char.isprintable() else "?" for char in name[:NAME_MAX])
        self._recent.add(name)
        room = len(self.counts) < NAMES_MAX and name not in (OTHERS, "")
        if name not in self.counts and room and self._recent.counts[name] >= ENOUGH:
            self.counts[name] = Counter()
        self.counts.get(name, self.others)[result] += 1

    def age(self) -> None:
        """An hour has passed: who is busy no more gives up his place, and old counts weigh half in choosing."""
        busy = {name for name, count in self._recent.top(NAMES_MAX) if count >= ENOUGH}
        for name in [name for name in self.counts if name not in busy]:
            del self.counts[name]
        self._recent.halve()

    def samples(self) -> dict[tuple[str, ...], float]:
        """The counts by name and result."""
        tables = {**self.counts, OTHERS: self.others}
        return {(name, result): count for name, counts in tables.items() for result, count in counts.items()}
