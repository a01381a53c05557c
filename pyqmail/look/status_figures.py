"""What the status page says in figures, from the last answers of the watchers."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import Metric

from pyqmail.log.printer import duration
from pyqmail.look.board import Board, LogState
from pyqmail.look.dns_watch import DnsState
from pyqmail.look.exposition import parse_metrics
from pyqmail.look.history import STEP_S, STEPS

HOUR_S = 3600
Delays = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class StatusFigures:
    """All of it. ``steps``: what happened, by the beginning of each step of a day up to now."""

    state: str
    values: dict[tuple[str, ...], float] = field(default_factory=dict)
    delays: Delays = field(default_factory=list)
    steps: list[tuple[int, Counter[str]]] = field(default_factory=list)
    domains: list[tuple[str, Counter[str]]] = field(default_factory=list)
    failures: list[tuple[float, str, str, str]] = field(default_factory=list)
    certificates: list[tuple[str, float]] = field(default_factory=list)
    dns: DnsState | None = None

    def value(self, name: str, *labels: str) -> float:
        """A metric of qmail-send; 0 for one that it does not have."""
        return self.values.get((name, *labels), 0.0)

    def total(self, name: str, seconds: int = 24 * HOUR_S) -> int:
        """How often ``name`` happened in the last so many seconds."""
        return sum(counts[name] for _, counts in self.steps[-max(1, seconds // STEP_S) :])


def read_figures(board: Board, now: float) -> StatusFigures:
    """What ``board`` knows."""
    send = board.send.value
    metrics = list(parse_metrics(send.text))
    logs = board.logs.value
    ends = [(labels[0], float(value)) for labels, value in board.certificates.value.samples if isinstance(value, float)]
    counted = (steps(logs, now), domains(logs), failures(logs))
    return StatusFigures(send.state, dict(_values(metrics)), delays(metrics), *counted, ends, board.dns)


def _values(metrics: list[Metric]) -> Iterator[tuple[tuple[str, ...], float]]:
    for metric in metrics:
        for sample in metric.samples:
            yield (sample.name, *sample.labels.values()), sample.value


def delays(metrics: list[Metric]) -> Delays:
    """How many recipients got their message within which time, of both channels together, by classes."""
    counts: Counter[float] = Counter()
    for metric in metrics:
        for sample in metric.samples:
            if sample.name == "pyqmail_delivery_delay_seconds_bucket":
                counts[float(sample.labels["le"])] += int(sample.value)
    found: Delays = []
    below = 0
    for bound in sorted(counts):
        name = "longer" if bound == float("inf") else f"{duration(bound)}"
        found.append((name, counts[bound] - below))
        below = counts[bound]
    return found


def steps(logs: LogState, now: float) -> list[tuple[int, Counter[str]]]:
    """A day of steps up to ``now``, those without anything too."""
    known = {int(begin): Counter(dict(counts)) for begin, counts in _pairs(logs.page.get("history"))}
    last = int(now // STEP_S) * STEP_S
    return [(begin, known.get(begin, Counter())) for begin in range(last - (STEPS - 1) * STEP_S, last + 1, STEP_S)]


def domains(logs: LogState) -> list[tuple[str, Counter[str]]]:
    """The domains by what went wrong, then by name."""
    found = logs.page.get("domains")
    counts = [(str(name), Counter(dict(each))) for name, each in found.items()] if isinstance(found, dict) else []
    return sorted(counts, key=lambda pair: (-pair[1]["failure"] - pair[1]["deferral"], pair[0]))


def failures(logs: LogState) -> list[tuple[float, str, str, str]]:
    """The last failures and deferrals, the latest first."""
    found = logs.page.get("failures")
    rows = [(float(when), str(a), str(b), str(c)) for when, a, b, c in found] if isinstance(found, list) else []
    return rows[::-1]


def _pairs(value: object) -> Iterator[tuple[int, dict[str, int]]]:
    for pair in value if isinstance(value, list) else []:
        yield pair[0], pair[1]
