"""What a log has counted: by sender, domain and result, and how long mail took (qmail-log(8))."""

from collections import Counter
from collections.abc import Iterator

from pyqmail.log.joiner import Delivery, Item, Message, Session, Trouble
from pyqmail.log.printer import duration

TOP = 10  # rows of each table


class Statistics:
    """Counts by sender, domain and result, and delays from the message's coming to a recipient's success."""

    def __init__(self) -> None:
        self._results: Counter[str] = Counter()
        self._senders: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._domains: dict[str, Counter[str]] = {}
        self._sessions: Counter[str] = Counter()
        self._delays: list[float] = []
        self._messages = 0

    def add(self, item: Item) -> None:
        """Count one item."""
        match item:
            case Message():
                self.add_message(item.sender, item.size)
            case Delivery():
                self.add_delivery(item.result, item.recipient, item.message.began, item.ended)
            case Session():
                self.add_session(item.result)
            case Trouble():
                self.add_trouble()

    def add_message(self, sender: str, size: int) -> None:
        """A message has left the queue."""
        self._messages += 1
        self._senders[sender] += 1
        self._bytes[sender] += size

    def add_delivery(self, result: str, recipient: str, began: float | None, ended: float | None) -> None:
        """A delivery has ended of a message that came at ``began``."""
        self._results[result] += 1
        domain = recipient.rpartition("@")[2].lower()
        counts = self._domains.get(domain)
        if counts is None:
            counts = self._domains[domain] = Counter()
        counts[result] += 1
        if result == "success" and began is not None and ended is not None:
            self._delays.append(ended - began)

    def add_session(self, result: str) -> None:
        """A door has decided."""
        self._sessions[result] += 1

    def add_trouble(self) -> None:
        """An alert or a warning."""
        self._results["alert"] += 1

    def merge(self, other: "Statistics") -> None:
        """Add what ``other`` has counted."""
        for mine, theirs in (
            (self._results, other._results),
            (self._senders, other._senders),
            (self._bytes, other._bytes),
            (self._sessions, other._sessions),
        ):
            mine.update(theirs)
        for domain, counts in other._domains.items():
            self._domains.setdefault(domain, Counter()).update(counts)
        self._delays += other._delays
        self._messages += other._messages

    def lines(self) -> Iterator[str]:
        """The tables."""
        yield f"messages that left the queue: {self._messages}, {sum(self._bytes.values())} bytes"
        for name in ("success", "deferral", "failure", "alert"):
            yield f"{name:<12}{self._results[name]:>10}"
        for name, count in sorted(self._sessions.items()):
            yield f"smtp {name:<12}{count:>5}"
        if self._delays:
            ordered = sorted(self._delays)
            parts = (
                (f"{share}%", ordered[min(len(ordered) - 1, len(ordered) * share // 100)]) for share in (50, 90, 99)
            )
            yield "delay: " + ", ".join(f"{name} {duration(value)}" for name, value in (*parts, ("max", ordered[-1])))
        yield "senders by messages (bytes):"
        for sender, count in sorted(self._senders.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP]:
            yield f"{count:>10}  <{sender}> ({self._bytes[sender]})"
        yield "domains by deliveries (success/deferral/failure):"
        busiest = sorted(self._domains.items(), key=lambda pair: (-sum(pair[1].values()), pair[0]))
        for domain, counts in busiest[:TOP]:
            results = "/".join(str(counts[name]) for name in ("success", "deferral", "failure"))
            yield f"{sum(counts.values()):>10}  {domain} ({results})"
