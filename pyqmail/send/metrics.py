"""Counters of qmail-send, kept where things happen, and their file for Prometheus (qmail-send(8), control/metricsfile).

The text format is that of Prometheus' exposition format 0.0.4, as node_exporter's textfile collector reads it. The file
is written beside its place and renamed into it, so that a reader never sees half of it.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pyqmail.log.events import Warn
from pyqmail.log.sinks import Sink
from pyqmail.protocol import spawn
from pyqmail.send.background import Background
from pyqmail.system import files
from pyqmail.system.loop import Loop, Timer

INTERVAL_S = 15
CHANNELS = ("local", "remote")
RESULTS = {spawn.SUCCESS: "success", spawn.DEFERRAL: "deferral", spawn.FAILURE: "failure"}
AGE_BOUNDS_S = (1, 10, 60, 300, 900, 3600, 14400, 86400, 259200, 604800)


class Histogram:
    """How many values were at most each bound, and their sum."""

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``."""
        self.sum += value
        self.counts[bisect_left(self.bounds, value)] += 1


class QueueAges:
    """The messages in the queue by the minute of their birth: small, however many messages there are."""

    def __init__(self) -> None:
        self._minutes: dict[int, int] = {}
        self.messages = 0

    def add(self, birth: int) -> None:
        """A message of that birth is in the queue."""
        self._minutes[birth // 60] = self._minutes.get(birth // 60, 0) + 1
        self.messages += 1

    def remove(self, birth: int) -> None:
        """A message of that birth has left; one never added is ignored."""
        left = self._minutes.get(birth // 60, 0) - 1
        if left < 0:
            return
        self.messages -= 1
        if left:
            self._minutes[birth // 60] = left
        else:
            del self._minutes[birth // 60]

    def oldest(self, now: float) -> float:
        """The age in seconds of the oldest message, to a minute; 0 for an empty queue."""
        return max(0.0, now - min(self._minutes) * 60) if self._minutes else 0.0

    def older_than(self, now: float, seconds: int) -> int:
        """How many messages are older than ``seconds``."""
        edge = (now - seconds) / 60
        return sum(count for minute, count in self._minutes.items() if minute < edge)


@dataclass(slots=True)
class Counters:
    """What qmail-send has done since it started."""

    accepted: int = 0
    ended: int = 0
    bounces: dict[str, int] = field(default_factory=lambda: {"single": 0, "double": 0, "discarded": 0})
    started: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHANNELS, 0))
    results: dict[tuple[str, str], int] = field(default_factory=dict)
    ages: QueueAges = field(default_factory=QueueAges)
    delays: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram(AGE_BOUNDS_S) for name in CHANNELS})

    def reported(self, channel: str, letter: bytes, age_s: float) -> None:
        """A delivery of a message of that age has reported."""
        result = RESULTS.get(letter, "mangled")
        key = channel, result
        self.results[key] = self.results.get(key, 0) + 1
        if result == "success":
            self.delays[channel].observe(max(0.0, age_s))

    def bounced(self, kind: str) -> None:
        """A bounce is queued; or discarded, if nobody would take it."""
        self.bounces[kind] += 1

    def left(self, birth: int) -> None:
        """A message of that birth has left the queue."""
        self.ended += 1
        self.ages.remove(birth)


@dataclass(frozen=True, slots=True)
class Gauges:
    """The state at one moment; the mappings are by channel."""

    now: float
    started_at: float
    running: Mapping[str, int]
    limit: Mapping[str, int]
    waiting: Mapping[str, int]
    lag_s: Mapping[str, float]
    preprocessing: int
    held: int
    loading: bool


def _metric(name: str, kind: str, text: str, samples: Mapping[str, float]) -> list[str]:
    lines = [f"# HELP pyqmail_{name} {text}", f"# TYPE pyqmail_{name} {kind}"]
    return lines + [f"pyqmail_{name}{labels} {value:.15g}" for labels, value in samples.items()]


def _by_channel(values: Mapping[str, float]) -> dict[str, float]:
    return {f'{{channel="{channel}"}}': value for channel, value in values.items()}


def _delays(counters: Counters) -> list[str]:
    name = "pyqmail_delivery_delay_seconds"
    lines = [f"# HELP {name} Age of a message when a recipient got it.", f"# TYPE {name} histogram"]
    for channel, histogram in counters.delays.items():
        total = 0
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{channel="{channel}",le="{bound}"}} {total}')
        lines.append(f'{name}_sum{{channel="{channel}"}} {histogram.sum:.15g}')
        lines.append(f'{name}_count{{channel="{channel}"}} {total}')
    return lines


def format_metrics(counters: Counters, gauges: Gauges) -> bytes:
    """The whole text file."""
    results = {
        f'{{channel="{channel}",result="{result}"}}': float(counters.results.get((channel, result), 0))
        for channel in CHANNELS
        for result in (*RESULTS.values(), "mangled")
    }
    bounces = {f'{{kind="{kind}"}}': float(count) for kind, count in counters.bounces.items()}
    ages = counters.ages
    older = {f'{{seconds="{bound}"}}': float(ages.older_than(gauges.now, bound)) for bound in AGE_BOUNDS_S[2:]}
    lines = [
        *_metric("start_time_seconds", "gauge", "When qmail-send started.", {"": gauges.started_at}),
        *_metric("messages_accepted_total", "counter", "Messages taken out of todo.", {"": counters.accepted}),
        *_metric("messages_ended_total", "counter", "Messages that left the queue.", {"": counters.ended}),
        *_metric("deliveries_started_total", "counter", "Deliveries begun.", _by_channel(counters.started)),
        *_metric("deliveries_total", "counter", "Deliveries by result.", results),
        *_metric("bounces_total", "counter", "Bounces queued, and discarded.", bounces),
        *_metric("deliveries_running", "gauge", "Deliveries under way.", _by_channel(gauges.running)),
        *_metric("delivery_limit", "gauge", "Most deliveries at once.", _by_channel(gauges.limit)),
        *_metric("queue_waiting", "gauge", "Messages that wait for a next attempt.", _by_channel(gauges.waiting)),
        *_metric("queue_lag_seconds", "gauge", "How overdue the most overdue is.", _by_channel(gauges.lag_s)),
        *_metric("queue_messages", "gauge", "Preprocessed messages in the queue.", {"": ages.messages}),
        *_metric("queue_preprocessing", "gauge", "Messages between todo and the channels.", {"": gauges.preprocessing}),
        *_metric("queue_held", "gauge", "Messages held by order.", {"": gauges.held}),
        *_metric("queue_loading", "gauge", "1 while the queue found at start is being read.", {"": gauges.loading}),
        *_metric("queue_oldest_age_seconds", "gauge", "Age of the oldest message.", {"": ages.oldest(gauges.now)}),
        *_metric("queue_older", "gauge", "Messages older than so many seconds.", older),
        *_delays(counters),
    ]
    return "\n".join(lines).encode() + b"\n"


def write_metrics(path: str, data: bytes) -> None:
    """Put ``data`` at ``path``, mode 0644, in one step. Raises OSError."""
    fresh = f"{path}.{os.getpid()}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.fchmod(fd, 0o644)
        files.write_all(fd, data)
    finally:
        os.close(fd)
    try:
        files.rename(fresh, path)
    except OSError:
        files.unlink_if_present(fresh)
        raise


class MetricsFile:
    """Writes the file now and then, in a thread; a failure is logged once until it works again."""

    def __init__(self, loop: Loop, background: Background, measure: Callable[[], bytes], log: Sink) -> None:
        self._loop = loop
        self._background = background
        self._measure = measure
        self._log = log
        self._path = ""
        self._timer: Timer | None = None
        self._writing = False
        self._failed = False

    def set_path(self, home: str, name: bytes) -> None:
        """Write to ``name``, which may be relative to ``home``, from now on; to nowhere if it is empty."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._path = os.path.join(home, os.fsdecode(name)) if name else ""
        self._failed = False
        if self._path:
            self._tick()

    def write_last(self) -> None:
        """Write once more, now: the program ends."""
        if self._path:
            try:
                write_metrics(self._path, self._measure())
            except OSError:
                return

    def _tick(self) -> None:
        self._timer = self._loop.call_later(INTERVAL_S, self._tick)
        if self._writing:
            return  # the disk is slow: no second job behind the first
        self._writing = True
        path, data = self._path, self._measure()

        def write() -> Callable[[], None]:
            try:
                write_metrics(path, data)
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower().encode()
                return lambda: self._written(reason)
            return lambda: self._written(b"")

        self._background.submit(write)

    def _written(self, trouble: bytes) -> None:
        self._writing = False
        if trouble and not self._failed:
            self._log(Warn(b"unable to write the file of control/metricsfile: " + trouble))
        self._failed = bool(trouble)
