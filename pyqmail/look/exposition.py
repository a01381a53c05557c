"""Families of metrics in the formats that Prometheus asks for, by prometheus-client.

Its writer escapes what stands in labels; no registry of its own is used, since nothing is counted in this process.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from pyqmail.look.board import Board
from pyqmail.look.families import COUNTER, GAUGE, Family


class BoardCollector(Collector):
    """All metrics of ``board``."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        """The families, qmail-send's own first."""
        yield from parse_metrics(self._board.send.value.text)
        yield from map(metric_of, self._board.families())


def parse_metrics(text: str) -> Iterable[Metric]:
    """The families of a text in Prometheus' format. Raises ValueError."""
    return list(text_string_to_metric_families(text))


def metric_of(family: Family) -> Metric:
    """``family`` as prometheus-client has it."""
    made: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    if family.kind == COUNTER:
        made = CounterMetricFamily(family.name, family.text, labels=family.labels)
    elif family.kind == GAUGE:
        made = GaugeMetricFamily(family.name, family.text, labels=family.labels)
    else:
        made = HistogramMetricFamily(family.name, family.text, labels=family.labels)
    for labels, value in family.samples:
        if isinstance(value, tuple):
            assert isinstance(made, HistogramMetricFamily)
            buckets, total = value
            made.add_metric(labels, [(bound, float(count)) for bound, count in buckets], total)
        else:
            assert not isinstance(made, HistogramMetricFamily)
            made.add_metric(labels, value)
    return made


def exposition(collector: Collector, accept: str) -> tuple[bytes, str]:
    """All of it in the best form that the Accept field ``accept`` asks for, and its type."""
    encode: Callable[[Collector], bytes]
    encode, content_type = choose_encoder(accept)
    return encode(collector), content_type
