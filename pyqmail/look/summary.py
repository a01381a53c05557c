"""What happened in a span of time, summed up from the logs: flow, results, delays, domains, failures, refusals.

Memory is bounded whatever the log holds (log/tables.py).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pyqmail.log.counts import Ended, Left
from pyqmail.log.tables import RESULTS, Delays, Rows, Tally, as_domain

HOUR_S, DAY_S = 3600, 86400
TEXTS_MAX = 20  # warnings and alerts that are shown as they are
TEXT_MAX = 160  # characters of an answer
SUCCESS, _, FAILURE = range(len(RESULTS))
BOUNCES = b"<> (bounces)"


@dataclass(slots=True)
class Step:
    """What happened in one hour, or one day; ``results`` as RESULTS."""

    accepted: int = 0
    refused: int = 0
    results: list[int] = field(default_factory=lambda: [0] * len(RESULTS))

    def count(self, name: str) -> int:
        """How often ``name`` happened."""
        return self.results[RESULTS.index(name)] if name in RESULTS else int(getattr(self, name))


class Summary:
    """The figures from ``begin`` to ``end`` (seconds of the epoch), in steps of ``step_s``."""

    def __init__(self, begin: float, end: float, step_s: int = HOUR_S) -> None:
        self.begin, self.end, self.step_s = begin, end, step_s
        self.steps = [Step() for _ in range(max(1, int((end - begin + step_s - 1) // step_s)))]
        self.totals = Counter[str]()  # messages, bytes, bounced, encrypted, authenticated, troubles
        self.channels = {channel: [0] * len(RESULTS) for channel in (b"local", b"remote")}
        self.delays = Delays()
        self.senders, self.domains = Rows(1, as_domain), Rows(len(RESULTS), as_domain)
        self.refusals, self.failures = Tally(), Tally()
        self.trouble_texts: list[str] = []

    def happened(self, name: str) -> int:
        """How often ``name`` happened: accepted, refused, or one of RESULTS."""
        return sum(step.count(name) for step in self.steps)

    def _step(self, when: float | None) -> Step | None:
        """Where ``when`` lies; None where it does not."""
        if when is None or not self.begin <= when < self.end:
            return None
        return self.steps[min(len(self.steps) - 1, int((when - self.begin) // self.step_s))]

    def add_messages(self, messages: Iterable[Left]) -> None:
        """Messages have left the queue."""
        totals = self.totals
        for when, sender, size, bounced in messages:
            if self._step(when) is not None:
                totals["messages"] += 1
                totals["bytes"] += size
                totals["bounced"] += bounced
                self.senders.row(domain_of(sender) if sender else BOUNCES)[0] += 1

    def add_deliveries(self, deliveries: Iterable[Ended]) -> None:
        """Deliveries have ended."""
        for when, place, channel, recipient, text, began in deliveries:
            step = self._step(when)
            if step is None:
                continue
            step.results[place] += 1
            self.channels[channel][place] += 1
            domain = domain_of(recipient)
            self.domains.row(domain)[place] += 1
            if place == FAILURE:
                answer = text.strip(b"/").decode("utf-8", "replace").replace("_", " ")[:TEXT_MAX]
                self.failures.add(f"{as_domain(domain)}: {answer}")
            elif place == SUCCESS and began is not None and when is not None:
                self.delays.add(when - began)

    def add_session(self, when: float | None, result: str, words: bytes) -> None:
        """A door has decided."""
        step = self._step(when)
        if step is None:
            return
        known = dict(words_of(words))
        if result == "accepted":
            step.accepted += 1
            self.totals["encrypted"] += b"encrypted" in known
            self.totals["authenticated"] += b"authuser" in known
        else:
            step.refused += 1
            self.refusals.add(known.get(b"reason", b"?").decode("utf-8", "replace").replace("_", " ")[:TEXT_MAX])

    def add_trouble(self, when: float | None, text: bytes) -> None:
        """An alert or a warning."""
        if self._step(when) is not None:
            self.totals["troubles"] += 1
            if len(self.trouble_texts) < TEXTS_MAX:
                self.trouble_texts.append(text.decode("utf-8", "replace"))

    def merge(self, other: "Summary") -> None:
        """Add what ``other`` has counted in the same span."""
        for mine, theirs in zip(self.steps, other.steps, strict=True):
            mine.accepted += theirs.accepted
            mine.refused += theirs.refused
            mine.results[:] = map(sum, zip(mine.results, theirs.results, strict=True))
        for channel, counts in other.channels.items():
            self.channels[channel][:] = map(sum, zip(self.channels[channel], counts, strict=True))
        self.totals.update(other.totals)
        self.delays.merge(other.delays)
        self.senders.merge(other.senders)
        self.domains.merge(other.domains)
        self.refusals.merge(other.refusals)
        self.failures.merge(other.failures)
        self.trouble_texts = [*self.trouble_texts, *other.trouble_texts][:TEXTS_MAX]


def words_of(words: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The words KEY=VALUE of a decision."""
    for word in words.split(b" "):
        key, equals, value = word.partition(b"=")
        if equals:
            yield key, value


def domain_of(address: bytes) -> bytes:
    """The domain as it came; the whole where there is none."""
    return address[address.rfind(b"@") + 1 :]
