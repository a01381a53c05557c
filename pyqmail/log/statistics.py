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
                self._messages += 1
                self._senders[item.sender] += 1
                self._bytes[item.sender] += item.size
            case Delivery():
                self._results[item.result] += 1
                domain = item.recipient.rpartition("@")[2].lower()
                self._domains.setdefault(domain, Counter())[item.result] += 1
                began = item.message.began
                if item.result == "success" and began is not None and item.ended is not None:
                    self._delays.append(item.ended - began)
            case Session():
                self._sessions[item.result] += 1
            case Trouble():
                self._results["alert"] += 1

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
        for sender, count in self._senders.most_common(TOP):
            yield f"{count:>10}  <{sender}> ({self._bytes[sender]})"
        yield "domains by deliveries (success/deferral/failure):"
        busiest = sorted(self._domains.items(), key=lambda pair: (-sum(pair[1].values()), pair[0]))
        for domain, counts in busiest[:TOP]:
            results = "/".join(str(counts[name]) for name in ("success", "deferral", "failure"))
            yield f"{sum(counts.values()):>10}  {domain} ({results})"
