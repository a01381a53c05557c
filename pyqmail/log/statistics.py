"""What a log has counted: by sender, domain and result, and how long mail took (qmail-log(8))."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pyqmail.log.counts import Ended, Left
from pyqmail.log.printer import duration
from pyqmail.log.tables import RESULTS, Delays, Rows, as_domain, as_text

TOP = 10  # rows of each table


def messages_of(row: Sequence[int]) -> int:
    """A sender's messages."""
    return row[0]


class Statistics:
    """Counts by sender, domain and result, and delays from the message's coming to a recipient's success."""

    def __init__(self) -> None:
        self._results = [0] * len(RESULTS)
        self._troubles = self._messages = self._bytes = 0
        self._senders = Rows(2, as_text, messages_of)  # messages and bytes
        self._domains = Rows(len(RESULTS), as_domain)
        self._sessions: Counter[str] = Counter()
        self._delays = Delays()

    def add_messages(self, messages: Iterable[Left]) -> None:
        """Messages have left the queue."""
        row_of = self._senders.row
        for _, sender, size, _ in messages:
            row = row_of(sender)
            row[0] += 1
            row[1] += size
            self._messages += 1
            self._bytes += size

    def add_deliveries(self, deliveries: Iterable[Ended]) -> None:
        """Deliveries have ended."""
        row_of, results, add_delay = self._domains.row, self._results, self._delays.add
        for when, place, _, recipient, _, began in deliveries:
            results[place] += 1
            row_of(recipient[recipient.rfind(b"@") + 1 :])[place] += 1
            if place == 0 and began is not None and when is not None:
                add_delay(when - began)

    def add_session(self, _when: float | None, result: str, _words: bytes) -> None:
        """A door has decided."""
        self._sessions[result] += 1

    def add_trouble(self, _when: float | None, _text: bytes) -> None:
        """An alert or a warning."""
        self._troubles += 1

    def merge(self, other: "Statistics") -> None:
        """Add what ``other`` has counted."""
        self._results[:] = map(sum, zip(self._results, other._results, strict=True))
        self._troubles += other._troubles
        self._messages += other._messages
        self._bytes += other._bytes
        self._senders.merge(other._senders)
        self._domains.merge(other._domains)
        self._sessions.update(other._sessions)
        self._delays.merge(other._delays)

    def lines(self) -> Iterator[str]:
        """The tables."""
        yield f"messages that left the queue: {self._messages}, {self._bytes} bytes"
        for name, count in zip((*RESULTS, "alert"), (*self._results, self._troubles), strict=True):
            yield f"{name:<12}{count:>10}"
        for name, count in sorted(self._sessions.items()):
            yield f"smtp {name:<12}{count:>5}"
        parts = [(f"{percent}%", self._delays.share(percent)) for percent in (50, 90, 99)]
        known = [f"{name} {duration(value)}" for name, value in parts if value is not None]
        if known:
            yield f"delay: {', '.join(known)}, max {duration(self._delays.longest)}"
        yield "senders by messages (bytes):"
        for sender, (messages, size) in self._senders.top(TOP):
            yield f"{messages:>10}  <{sender}> ({size})"
        yield "domains by deliveries (success/deferral/failure):"
        for domain, counts in self._domains.top(TOP):
            yield f"{sum(counts):>10}  {domain} ({'/'.join(map(str, counts))})"
