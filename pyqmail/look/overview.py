"""The mail server at one moment: the queue by state, age and domain, deliveries, flow, last failures (qmail-top(8)).

The queue is read from its files and the running qmail-send, flow and failures from the end of its log.
"""

import os
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from pyqmail.admin.queue_report import message_json, shown
from pyqmail.admin.queue_session import QueueSession
from pyqmail.log.joiner import Delivery, Joiner, Session, Trouble
from pyqmail.log.stamps import parse_line
from pyqmail.spool import queue_view

MESSAGES_MAX = 5000  # of the queue that are read each time; of more the first by number
LOG_TAIL = 4 << 20  # bytes of a log that are read each time
FLOW_S = 300.0  # flow is told of so many seconds
FAILURES_MAX = 50
AGES = ((300, "below 5 min"), (3600, "5 min to 1 h"), (86400, "1 h to 1 day"), (float("inf"), "above 1 day"))


@dataclass(frozen=True, slots=True)
class Row:
    """A message of the queue, as a line of a table; texts are safe to show."""

    number: int
    state: str
    age_s: float
    size: int
    sender: str
    domains: tuple[str, ...]
    left: int
    attempts: int
    next_s: float | None
    reply: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A delivery that failed or was deferred, or an alert."""

    when: float
    result: str
    who: str
    text: str


@dataclass(slots=True)
class Flow:
    """What the logs say of the last ``FLOW_S`` seconds."""

    results: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    refused: int = 0
    messages: int = 0
    limited: int = 0
    failures: deque[Failure] = field(default_factory=lambda: deque(maxlen=FAILURES_MAX))

    def per_minute(self, count: int) -> float:
        """``count`` of the span as a rate."""
        return count * 60 / FLOW_S


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it. ``whole``: how many messages there are, of which ``rows`` may be a part; ``flow`` None: no log."""

    now: float
    running: bool
    whole: int
    rows: list[Row]
    delivering: list[tuple[str, int]]
    held_domains: tuple[str, ...]
    flow: Flow | None

    def states(self) -> dict[str, int]:
        """Messages by state."""
        return dict(sorted(Counter(row.state for row in self.rows).items()))

    def ages(self) -> dict[str, int]:
        """Messages by age."""
        found = dict.fromkeys((name for _, name in AGES), 0)
        for row in self.rows:
            found[next(name for limit, name in AGES if row.age_s < limit)] += 1
        return found

    def domains(self, count: int) -> list[tuple[str, int]]:
        """The domains for which most messages wait."""
        counts = Counter(domain for row in self.rows for domain in row.domains)
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:count]


def look(session: QueueSession, logs: list[str], now: float | None = None) -> Overview:
    """Look once. Raises QueueError and OSError when the queue cannot be read."""
    now = time.time() if now is None else now
    with session.as_send:
        live = session.live()
        numbers = queue_view.numbers(session.layout)
        views = [queue_view.read_message(session.layout, session.history, number) for number in numbers[:MESSAGES_MAX]]
    rows = [_row(view, message_json(view, live, recipients=False), now) for view in views if view is not None]
    flow = Flow() if logs else None
    for log in logs:
        assert flow is not None
        add_log(flow, log, now)
    return Overview(now, live.running, len(numbers), rows, sorted(live.delivering), live.domains, flow)


def _row(view: queue_view.MessageView, told: dict[str, object], now: float) -> Row:
    left = [recipient for channel in view.channels for recipient in channel.left]
    replies = [recipient.reply for recipient in left if recipient.reply]
    channels = told["channels"]
    assert isinstance(channels, dict)
    due = [channel["next_attempt"] for channel in channels.values() if channel["next_attempt"] is not None]
    return Row(
        view.number,
        str(told["state"]),
        max(0.0, now - view.queued),
        view.size,
        shown(view.sender),
        tuple(sorted({shown(each.address.rpartition(b"@")[2].lower()) for each in left})),
        len(left),
        max((channel.attempts for channel in view.channels), default=0),
        min(due) - now if due else None,
        shown(replies[-1]).replace("_", " ") if replies else "",
    )


def add_log(flow: Flow, path: str, now: float) -> None:
    """Count what the end of a log says; one that cannot be read says nothing."""
    path = f"{path}/current" if os.path.isdir(path) else path
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - LOG_TAIL))
            data = file.read(LOG_TAIL)
    except OSError:
        return
    joiner = Joiner()
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        when, event = parse_line(line)
        if event is None or when is None:
            continue
        lately = now - when < FLOW_S
        for item in joiner.take(when, event):
            _count(flow, item, when, lately=lately)


def _count(flow: Flow, item: object, when: float, *, lately: bool) -> None:
    match item:
        case Delivery():
            flow.results[item.result] += lately
            if item.result != "success":
                who = f"msg {item.message.number} {safe(item.recipient)}"
                flow.failures.append(Failure(when, item.result, who, safe(item.text.replace("_", " "))))
        case Session():
            flow.accepted += lately and item.result == "accepted"
            flow.refused += lately and item.result == "refused"
            flow.limited += lately and "limit" in item.rest.partition(" reason=")[2].lower()
        case Trouble():
            flow.failures.append(Failure(when, "alert", "", safe(item.text)))
        case _:
            flow.messages += lately


def safe(text: str) -> str:
    """``text`` without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
