"""What the lines of the logs say, counted as they come, in bounded memory (qmail-metrics(8))."""

import re
from collections import Counter, deque
from dataclasses import dataclass

from pyqmail.log import events
from pyqmail.log.tables import RESULTS, as_domain
from pyqmail.look.busiest import Busiest
from pyqmail.look.families import Family, counter, histogram
from pyqmail.look.history import History
from pyqmail.look.summary import HOUR_S, domain_of
from pyqmail.send.metrics import CHANNELS, Histogram

ATTEMPT_BOUNDS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 3600)
RUNNING_MAX = 100_000  # deliveries that are remembered from their start; of more the oldest are forgotten
FAILURES_MAX, TEXT_MAX = 50, 200
DOORS = (b"qmail-smtpd", b"qmail-qmtpd", b"qmail-qmqpd")
CHECKS = (b"spf", b"dkim", b"dmarc")
CHECK_RESULTS = ("pass", "fail", "softfail", "neutral", "none", "temperror", "permerror", "policy")
OTHER = "other"
_CODE = re.compile(rb"[245]\d\d")
# The counters beside that of domains: what they are, their labels, and the samples that are there from the beginning,
# so that the first one counted is seen as a change.
_COUNTERS: dict[str, tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "door_messages": (
        "Messages that a door has accepted, and refusals.",
        ("program", "result"),
        (("qmail-smtpd", "accepted"), ("qmail-smtpd", "refused")),
    ),
    "door_encrypted": ("Accepted messages that came by TLS.", ("program",), (("qmail-smtpd",),)),
    "door_authenticated": ("Accepted messages of users.", ("program",), (("qmail-smtpd",),)),
    "refusals": ("Refusals by the code of the reply.", ("code",), ()),
    "limit_refusals": ("Refusals whose reply names a limit.", (), ((),)),
    "sender_checks": ("What SPF, DKIM and DMARC said of messages.", ("check", "result"), ()),
    "rehearsals": (
        "Accepted messages that enforcing SPF or DMARC would have refused.",
        ("check",),
        (("spf",), ("dmarc",)),
    ),
    "log_troubles": ("Alerts and warnings in the logs.", ("kind",), (("alert",), ("warning",))),
    "log_lines": ("Lines of the logs, and whether they were understood.", ("understood",), (("yes",), ("no",))),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A delivery that has begun; ``began`` is None where its line has no time."""

    channel: str
    domain: str
    began: float | None


class LogFigures:
    """Takes the events of all logs. What is old (``counted`` False) is history, but no counter's."""

    def __init__(self) -> None:
        self.history = History()
        self.failures: deque[tuple[float, str, str, str]] = deque(maxlen=FAILURES_MAX)  # when, result, domain, answer
        self.domains = Busiest()
        self._attempts = {channel: Histogram(ATTEMPT_BOUNDS_S) for channel in CHANNELS}
        self._counts: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in _COUNTERS}
        self._running: dict[tuple[str, int], Attempt] = {}
        self._aged: float | None = None

    def take(self, log: str, when: float | None, event: events.Known | None, *, counted: bool) -> None:
        """A line of ``log``."""
        if counted:
            self._counts["log_lines"]["no" if event is None else "yes",] += 1
        match event:
            case events.DeliveryStarted(delivery, _, channel, recipient):
                if len(self._running) >= RUNNING_MAX:
                    del self._running[next(iter(self._running))]
                self._running[log, delivery] = Attempt(channel, as_domain(domain_of(recipient)), when)
            case events.DeliveryEnded(delivery, result, text) if result in RESULTS:
                attempt = self._running.pop((log, delivery), None)
                if attempt is not None:
                    self._end(attempt, when, result, text, counted=counted)
            case events.Decision():
                self._decide(event, when, counted=counted)
            case events.Warn() | events.Alert() if counted:
                self._counts["log_troubles"]["alert" if isinstance(event, events.Alert) else "warning",] += 1

    def _end(self, attempt: Attempt, when: float | None, result: str, text: bytes, *, counted: bool) -> None:
        domain = attempt.domain
        self.history.add(when, result)
        if when is not None and result != "success":
            answer = text[:TEXT_MAX].decode("utf-8", "replace").strip("/").replace("_", " ")
            self.failures.append((when, result, domain[:TEXT_MAX], answer))
        if not counted:
            return
        self.domains.add(domain, result)
        if when is not None and attempt.began is not None and attempt.channel in self._attempts:
            self._attempts[attempt.channel].observe(max(0.0, when - attempt.began))

    def _decide(self, event: events.Decision, when: float | None, *, counted: bool) -> None:
        words = dict(event.words)
        accepted = event.result == "accepted"
        found = {"encrypted": accepted and b"encrypted" in words, "authenticated": accepted and b"authuser" in words}
        for name in ("accepted" if accepted else "refused", *(name for name, true in found.items() if true)):
            self.history.add(when, name)
        if not counted:
            return
        program = event.program.decode() if event.program in DOORS else OTHER
        self._counts["door_messages"][program, "accepted" if accepted else "refused"] += 1
        for name, true in found.items():
            self._counts[f"door_{name}"][program,] += true
        if not accepted:
            self._count_refusal(words.get(b"reason", b""))
        for key, value in event.words:
            if accepted and key == b"rehearsal":  # twice perhaps
                check = value.partition(b":")[0]
                self._counts["rehearsals"][check.decode() if check in CHECKS else OTHER,] += 1
        for check in CHECKS:
            if check in words:
                said = words[check].decode("ascii", "replace")
                self._counts["sender_checks"][check.decode(), said if said in CHECK_RESULTS else OTHER] += 1

    def _count_refusal(self, reason: bytes) -> None:
        code = reason[:3].decode() if _CODE.fullmatch(reason[:3]) else OTHER
        self._counts["refusals"][code,] += 1
        self._counts["limit_refusals"][()] += b"limit" in reason.lower()

    def age(self, now: float) -> None:
        """Let the busiest domains be chosen anew once an hour of ``now``, a clock that does not go back."""
        if self._aged is None:
            self._aged = now
        if now - self._aged >= HOUR_S:
            self._aged = now
            self.domains.age()

    def families(self) -> list[Family]:
        """All counters."""
        text = "Ended deliveries of the busiest domains by result."
        found = [counter("pyqmail_domain_deliveries", text, ("domain", "result"), self.domains.samples())]
        text = "How long attempts to deliver took."
        found.append(histogram("pyqmail_attempt_seconds", text, "channel", self._attempts))
        for name, (text, labels, always) in _COUNTERS.items():
            counts: dict[tuple[str, ...], float] = {**dict.fromkeys(always, 0), **self._counts[name]}
            found.append(counter(f"pyqmail_{name}", text, labels, counts))
        return found

    def page(self) -> dict[str, object]:
        """What the status page shows, as JSON has it."""
        domains = {name: dict(counts) for name, counts in self.domains.counts.items()}
        steps = sorted((begin, dict(counts)) for begin, counts in self.history.steps.items())
        return {"history": steps, "failures": list(self.failures), "domains": domains}
