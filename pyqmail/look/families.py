"""Measured values on their way from the process that counts them to who serves them, as JSON between the two.

A family is one metric of Prometheus with all its samples. The names of labels are ours; their values may be strangers'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyqmail.send.metrics import Histogram

COUNTER, GAUGE, HISTOGRAM = KINDS = ("counter", "gauge", "histogram")
Value = float | tuple[tuple[tuple[str, int], ...], float]  # a histogram's: cumulative counts by bound, and the sum


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: ``name`` without a counter's _total, what it is, the names of its labels, and its samples."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]
    samples: tuple[tuple[tuple[str, ...], Value], ...]

    def as_json(self) -> object:
        """What ``from_json`` reads."""
        return [self.name, self.kind, self.text, self.labels, self.samples]


def from_json(value: object) -> Family:
    """The family of an answer. Raises ValueError for anything else."""
    match value:
        case [str(name), kind, str(text), list(labels), list(samples)] if kind in KINDS:
            read = _read_histogram if kind == HISTOGRAM else _read_number
            taken = tuple(_sample(sample, len(labels), read) for sample in samples)
            return Family(name, str(kind), text, tuple(map(str, labels)), taken)
    raise ValueError("no family of metrics")


def _sample(value: object, labels: int, read: Callable[[object], Value]) -> tuple[tuple[str, ...], Value]:
    match value:
        case [list(names), counted] if len(names) == labels:
            return tuple(map(str, names)), read(counted)
    raise ValueError("no sample")


def _read_number(value: object) -> Value:
    if isinstance(value, int | float):
        return float(value)
    raise ValueError("no number")


def _read_histogram(value: object) -> Value:
    match value:
        case [list(buckets), int() | float() as total]:
            return tuple((str(bound), int(count)) for bound, count in buckets), float(total)
    raise ValueError("no histogram")


def counter(name: str, text: str, labels: Sequence[str], counts: Mapping[tuple[str, ...], float]) -> Family:
    """Counts by the values of ``labels``."""
    return Family(name, COUNTER, text, tuple(labels), tuple(sorted(counts.items())))


def gauge(name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]) -> Family:
    """The state by the values of ``labels``."""
    return Family(name, GAUGE, text, tuple(labels), tuple(sorted(values.items())))


def histogram(name: str, text: str, label: str, histograms: Mapping[str, Histogram]) -> Family:
    """Histograms by the value of ``label``."""
    return Family(name, HISTOGRAM, text, (label,), tuple(((key,), _value(each)) for key, each in histograms.items()))


def _value(counted: Histogram) -> Value:
    total, buckets = 0, []
    for bound, count in zip((*counted.bounds, "+Inf"), counted.counts, strict=True):
        total += count
        buckets.append((str(bound), total))
    return tuple(buckets), counted.sum
