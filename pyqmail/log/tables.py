"""Tables that stay small whatever a log holds: counts by name, and how long mail took."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import exp, log

KEYS_MAX = 20_000
RESULTS = ("success", "deferral", "failure")
STEPS = 100  # of delays for each factor of e: a delay is known to half a per cent
SHORTEST_S = 1e-6  # what is shorter, or below nothing after a step of the clock, counts as that


class Tally:
    """Counts by name. Of too many names the seldom ones are forgotten, and counted together in ``others``."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.others = 0

    def add(self, name: str, count: int = 1) -> None:
        """Count ``name``."""
        self.counts[name] += count
        if len(self.counts) > KEYS_MAX:
            kept = dict(self.counts.most_common(KEYS_MAX // 2))
            self.others += sum(self.counts.values()) - sum(kept.values())
            self.counts = Counter(kept)

    def merge(self, other: "Tally") -> None:
        """Add what ``other`` has counted."""
        self.others += other.others
        for name, count in other.counts.items():
            self.add(name, count)

    def halve(self) -> None:
        """Forget half of each count, and who has none left."""
        self.counts = Counter({name: count // 2 for name, count in self.counts.items() if count > 1})

    def top(self, rows: int) -> list[tuple[str, int]]:
        """The busiest, equal ones by name."""
        return sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:rows]


def as_text(name: bytes) -> str:
    """``name`` as a table shows it."""
    return name.decode("utf-8", "replace")


def as_domain(name: bytes) -> str:
    """A domain, whatever its case."""
    return name.decode("utf-8", "replace").lower()


class Rows:
    """Counts in columns by name; ``weight`` tells which rows are the busiest. Of too many the others are forgotten.

    Counting is quick: a name is decoded once.
    """

    def __init__(
        self, columns: int, shown: Callable[[bytes], str], weight: Callable[[Sequence[int]], int] = sum
    ) -> None:
        self._columns = columns
        self._shown = shown
        self._weight = weight
        self._rows: dict[str, list[int]] = {}
        self._known: dict[bytes, list[int]] = {}  # the same rows, by names as they came

    def row(self, name: bytes) -> list[int]:
        """The row of ``name``, to count in at once: it may be forgotten when another is asked for."""
        row = self._known.get(name)
        return row if row is not None else self._row(name, self._shown(name))

    def _row(self, name: bytes, shown: str) -> list[int]:
        if len(self._known) >= KEYS_MAX:
            self._rows = dict(self.top(KEYS_MAX // 2))
            self._known = {}
        row = self._known[name] = self._rows.setdefault(shown, [0] * self._columns)
        return row

    def merge(self, other: "Rows") -> None:
        """Add what ``other`` has counted."""
        for shown, counts in other._rows.items():
            row = self._row(shown.encode("utf-8", "surrogateescape"), shown)
            row[:] = map(sum, zip(row, counts, strict=True))

    def top(self, count: int) -> list[tuple[str, list[int]]]:
        """The busiest, equal ones by name."""
        return sorted(self._rows.items(), key=lambda pair: (-self._weight(pair[1]), pair[0]))[:count]


class Delays:
    """How long mail took."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}  # by the logarithm, in steps
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count a delay."""
        step = round(log(seconds) * STEPS) if seconds > SHORTEST_S else round(log(SHORTEST_S) * STEPS)
        self.counts[step] = self.counts.get(step, 0) + 1
        if seconds > self.longest:
            self.longest = seconds

    def merge(self, other: "Delays") -> None:
        """Add what ``other`` has counted."""
        for step, count in other.counts.items():
            self.counts[step] = self.counts.get(step, 0) + count
        self.longest = max(self.longest, other.longest)

    def share(self, percent: int) -> float | None:
        """So many per cent took at most that, in seconds; None without any."""
        whole = sum(self.counts.values())
        seen = 0
        for step in sorted(self.counts):
            seen += self.counts[step]
            if seen * 100 >= whole * percent:
                return min(exp(step / STEPS), self.longest)
        return None
