"""What qmail-metrics knows: the last answers of its watchers, asked for again and again, never while a client waits."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pyqmail.look.apart import Apart, Lost, Slow
from pyqmail.look.dns_watch import DnsState, DnsWatch
from pyqmail.look.families import Family, from_json, gauge
from pyqmail.look.watchers import RUNS, STATES, STOPPED

SEND_EVERY_S, LOGS_EVERY_S, CERTIFICATES_EVERY_S = 5.0, 5.0, 600.0
PATIENCE_S = 30.0
QUEUE_AGAIN = 20  # a look at the queue is made again after so many times its own duration
QUEUE_EVERY_S = 10.0  # and no sooner than that
STALE_S = 120.0  # what is older than that and its interval counts for nothing
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class SendState:
    """qmail-send: one of STATES, and its counters in Prometheus' text format."""

    state: str = STOPPED
    text: str = ""


@dataclass(frozen=True, slots=True)
class LogState:
    """The logs: counters, and what the page shows; ``page`` as LogFigures.page makes it."""

    families: tuple[Family, ...] = ()
    page: dict[str, object] = field(default_factory=dict)
    logs: tuple[str, ...] = ()


class Watched(Generic[Value]):
    """The last answer of one watcher to one question. ``parse`` raises ValueError for what is none."""

    def __init__(
        self, apart: Apart, question: str, every_s: float, first: Value, parse: Callable[[object], Value]
    ) -> None:
        self._apart = apart
        self._question = question
        self._every_s = every_s
        self._parse = parse
        self._first = first
        self._last = first
        self._at = float("-inf")

    @property
    def name(self) -> str:
        """Who answers."""
        return self._apart.title

    @property
    def age_s(self) -> float:
        """Since the last answer."""
        return time.monotonic() - self._at

    @property
    def value(self) -> Value:
        """The last answer; of old the first value."""
        return self._last if self.age_s < STALE_S + self._every_s else self._first

    def look(self) -> None:
        """Ask. Raises Lost."""
        try:
            self._last = self._parse(self._apart.ask(self._question, PATIENCE_S))
        except Slow:
            return
        except ValueError as error:
            raise Lost(f"{self.name}: {error}") from None
        self._at = time.monotonic()

    def keep_looking(self) -> None:
        """Ask again and again. Raises Lost."""
        while True:
            self.look()
            threading.Event().wait(self._every_s)


def parse_send(answer: object) -> SendState:
    """Of QueueWatcher. Raises ValueError."""
    match answer:
        case [state, str(text)] if state in STATES:
            return SendState(str(state), text)
    raise ValueError("no state of qmail-send")


def parse_logs(answer: object) -> LogState:
    """Of LogWatcher. Raises ValueError."""
    match answer:
        case {"families": list(families), "page": dict(page), "logs": list(logs)}:
            return LogState(tuple(map(from_json, families)), page, tuple(map(str, logs)))
    raise ValueError("no figures of logs")


class Board:
    """All of them; ``dns`` None: nobody looks there."""

    def __init__(self, queue: Apart, logs: Apart, certificates: Apart, dns: DnsWatch | None = None) -> None:
        self.queue = queue
        self._dns = dns
        self.send = Watched(queue, "metrics", SEND_EVERY_S, SendState(), parse_send)
        self.logs = Watched(logs, "figures", LOGS_EVERY_S, LogState(), parse_logs)
        none = gauge("pyqmail_certificate_end_timestamp_seconds", "", ("name",), {})
        self.certificates = Watched(certificates, "ends", CERTIFICATES_EVERY_S, none, from_json)

    def watch(self, lost: Callable[[Lost], None]) -> None:
        """Ask all of them once, and keep asking in threads. Without a watcher ``lost`` is called, in its thread."""
        for watched in (self.send, self.logs, self.certificates):
            threading.Thread(target=_watch, args=(watched.keep_looking, lost), daemon=True).start()
        if self._dns is not None:
            self._dns.watch(lost)

    @property
    def dns(self) -> DnsState | None:
        """The last look at DNS; None where nobody looks."""
        return None if self._dns is None else self._dns.value

    def families(self) -> Iterator[Family]:
        """What is known beside qmail-send's own counters."""
        runs = self.send.value.state == RUNS
        yield gauge("pyqmail_up", "1 while qmail-send runs and answers.", (), {(): float(runs)})
        ages: dict[tuple[str, ...], float] = {
            (watched.name,): min(watched.age_s, 1e9) for watched in (self.send, self.logs, self.certificates)
        }
        yield gauge("pyqmail_watcher_age_seconds", "Since a watcher has answered.", ("watcher",), ages)
        yield from self.logs.value.families
        yield self.certificates.value


def _watch(keep_looking: Callable[[], None], lost: Callable[[Lost], None]) -> None:
    try:
        keep_looking()
    except Lost as error:
        lost(error)
