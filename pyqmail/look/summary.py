"""What happened in a span of time, summed up from the logs: flow, results, delays, domains, failures, refusals.

Memory is bounded whatever the log holds: a table keeps at most ``KEYS_MAX`` names, the busiest of them.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyqmail.log.joiner import Delivery, Item, Message, Session, Trouble

HOUR_S, DAY_S = 3600, 86400
KEYS_MAX = 20_000
TEXTS_MAX = 20  # warnings and alerts that are shown as they are
RESULTS = ("success", "deferral", "failure")
DELAY_BOUNDS_S = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800,
    43200, 86400, 172800, 259200, 432000, 604800,
)  # fmt: skip


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

    def halve(self) -> None:
        """Forget half of each count, and who has none left."""
        self.counts = Counter({name: count // 2 for name, count in self.counts.items() if count > 1})

    def top(self, rows: int) -> list[tuple[str, int]]:
        """The busiest, equal ones by name."""
        return sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:rows]


class Delays:
    """How long mail took, in classes of about a factor of two."""

    def __init__(self) -> None:
        self.counts = [0] * (len(DELAY_BOUNDS_S) + 1)
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count a delay."""
        self.counts[bisect_left(DELAY_BOUNDS_S, seconds)] += 1
        self.longest = max(self.longest, seconds)

    def share(self, percent: int) -> float | None:
        """The bound below which so many per cent lie, never above the longest; None without any."""
        whole = sum(self.counts)
        if not whole:
            return None
        seen = 0
        for bound, count in zip((*DELAY_BOUNDS_S, self.longest), self.counts, strict=True):
            seen += count
            if seen * 100 >= whole * percent:
                return min(float(bound), self.longest)
        return self.longest


@dataclass(slots=True)
class Hour:
    """What happened in one hour, or one day."""

    accepted: int = 0
    refused: int = 0
    results: Counter[str] = field(default_factory=Counter)


class Summary:
    """The figures from ``begin`` to ``end`` (seconds of the epoch), in steps of ``step_s``."""

    def __init__(self, begin: float, end: float, step_s: int = HOUR_S) -> None:
        self.begin, self.end, self.step_s = begin, end, step_s
        self.steps = [Hour() for _ in range(max(1, int((end - begin + step_s - 1) // step_s)))]
        self.messages = self.bytes = self.bounced = 0
        self.encrypted = self.authenticated = 0
        self.channels: dict[tuple[str, str], int] = {}
        self.delays = Delays()
        self.senders, self.domains, self.refusals, self.failures = Tally(), Tally(), Tally(), Tally()
        self.domain_results: dict[str, Counter[str]] = {}
        self.troubles = 0
        self.trouble_texts: list[str] = []

    @property
    def accepted(self) -> int:
        """Messages that a door has taken."""
        return sum(step.accepted for step in self.steps)

    @property
    def refused(self) -> int:
        """Refusals at a door."""
        return sum(step.refused for step in self.steps)

    def result(self, name: str) -> int:
        """Deliveries that ended so."""
        return sum(step.results[name] for step in self.steps)

    def add(self, when: float | None, item: Item) -> None:
        """Count ``item`` of ``when``, if that lies within."""
        if when is None or not self.begin <= when < self.end:
            return
        step = self.steps[min(len(self.steps) - 1, int((when - self.begin) // self.step_s))]
        match item:
            case Message():
                self.messages += 1
                self.bytes += item.size
                self.bounced += item.bounced
                self.senders.add(domain_of(item.sender) if item.sender else "<> (bounces)")
            case Delivery():
                self._add_delivery(step, item)
            case Session():
                self._add_session(step, item)
            case Trouble():
                self.troubles += 1
                if len(self.trouble_texts) < TEXTS_MAX:
                    self.trouble_texts.append(item.text)

    def _add_delivery(self, step: Hour, item: Delivery) -> None:
        step.results[item.result] += 1
        key = item.channel, item.result
        self.channels[key] = self.channels.get(key, 0) + 1
        domain = domain_of(item.recipient)
        self.domains.add(domain)
        if domain in self.domain_results or len(self.domain_results) < KEYS_MAX:
            self.domain_results.setdefault(domain, Counter())[item.result] += 1
        if item.result == "success" and item.message.began is not None and item.ended is not None:
            self.delays.add(max(0.0, item.ended - item.message.began))
        elif item.result == "failure":
            self.failures.add(f"{domain}: {item.text.replace('_', ' ')[:160]}")

    def _add_session(self, step: Hour, item: Session) -> None:
        words = dict(words_of(item.rest))
        if item.result == "accepted":
            step.accepted += 1
            self.encrypted += "encrypted" in words
            self.authenticated += "authuser" in words
        else:
            step.refused += 1
            self.refusals.add(words.get("reason", "?").replace("_", " ")[:160])


def words_of(rest: str) -> Iterator[tuple[str, str]]:
    """The words KEY=VALUE of a decision, behind its recipients."""
    for word in rest.split(" ")[1:]:
        key, equals, value = word.partition("=")
        if equals:
            yield key, value


def domain_of(address: str) -> str:
    """The domain in lower case; the whole where there is none."""
    return address.rpartition("@")[2].lower()
