"""The whole life of a message from all logs together: sessions, submission, deliveries, bounce (qmail-log(8), trace).

What belongs together is found by numbers: a door's decision and the message's ``info msg`` line name the submission
``qp``; qmail-send's lines name the message ``msg`` until it ends, and a delivery belongs to its message.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pyqmail.log import events
from pyqmail.log.twins import Twins

LINES_MAX = 100_000  # that are kept of all messages found; more is said to be missing
NEAR_S = 3600.0  # between a decision and its message: a submission's number is used again


@dataclass(slots=True)
class Life:
    """One message of one log. ``lines``: time and text of each."""

    log: str
    number: int
    began: float
    submission: int = 0
    bounces: list[int] = field(default_factory=list)
    wanted: bool = False
    lines: list[tuple[float, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """What is said of the wanted: a line, when, and of which log."""

    when: float
    log: str
    text: str


class Moments:
    """When each submission was seen, by its number, which is used again."""

    def __init__(self) -> None:
        self._moments: dict[int, list[float]] = {}

    def add(self, submission: int, when: float) -> None:
        """It was seen then."""
        self._moments.setdefault(submission, []).append(when)

    def add_life(self, life: Life, bounces: "Moments") -> None:
        """The submission of ``life``, and in ``bounces`` those that it has led to."""
        if life.submission:
            self.add(life.submission, life.began)
        for bounce in life.bounces:
            bounces.add(bounce, life.began)

    def near(self, submission: int, when: float) -> bool:
        """Whether it was seen within ``NEAR_S`` of ``when``."""
        return any(abs(when - moment) < NEAR_S for moment in self._moments.get(submission, ()))

    def before(self, submission: int, when: float) -> bool:
        """Whether it was seen at ``when`` or before."""
        return any(moment <= when for moment in self._moments.get(submission, ()))


class Trace:
    """Follows an address, or a number after ``msg`` or ``qp``, through logs.

    A message is wanted if its sender or a recipient holds ``text``, or if it has that number; so are the decisions of
    its submission, and the bounce that it leads to.
    """

    def __init__(self, text: str) -> None:
        self._text = text.lower()
        self._number = int(text) if text.isdigit() else None
        self._decisions: list[tuple[float, int, bool, str, str]] = []  # when, qp, wanted, log, line
        self._lives: list[Life] = []
        self.missing = 0

    def feed(self, log: str, lines: Iterable[str]) -> int:
        """Read one log, which ``log`` names; how many of its lines were understood."""
        reader, twins = _Reader(log, self._wants), Twins()
        understood = 0
        for line in lines:
            when, event = twins.parse(line) or (None, None)
            if event is None:
                continue
            understood += 1
            if isinstance(event, events.Decision):
                self._decide(when or 0.0, event, log)
                continue
            ended = reader.take(when or 0.0, event)
            if ended is not None:
                self._keep(ended)
        for life in reader.living():
            self._keep(life)
        return understood

    def found(self) -> Iterator[Found]:
        """All of it, by time."""
        known, bounces = Moments(), Moments()  # submissions that are wanted, and those of their bounces
        for when, submission, wanted, *_ in self._decisions:
            if wanted and submission:
                known.add(submission, when)
        for life in self._lives:
            if life.wanted:
                known.add_life(life, bounces)
        for life in sorted(self._lives, key=lambda life: life.began):  # a bounce begins after what it is of
            near = known.near(life.submission, life.began) or bounces.before(life.submission, life.began)
            if not life.wanted and near:
                life.wanted = True
                known.add_life(life, bounces)
        found = []
        for when, submission, wanted, log, text in self._decisions:  # before the lines of the same moment
            if wanted or known.near(submission, when):
                found.append(Found(when, log, text))
        found += [Found(when, life.log, text) for life in self._lives if life.wanted for when, text in life.lines]
        yield from sorted(found, key=lambda line: line.when)

    def _wants(self, *texts: bytes) -> bool:
        return self._number is None and any(self._text in text.decode("utf-8", "replace").lower() for text in texts)

    def _decide(self, when: float, event: events.Decision, log: str) -> None:
        submission = next((int(value) for key, value in event.words if key == b"qp" and value.isdigit()), 0)
        wanted = self._wants(event.sender, event.to) or (self._number is not None and self._number == submission)
        if wanted or submission:
            self._decisions.append((when, submission, wanted, log, event.format().decode("utf-8", "replace")))
        if len(self._decisions) > 2 * LINES_MAX:  # those of messages that nobody looks for: the oldest go
            kept = [line for line in self._decisions if line[2]][-LINES_MAX:]
            self._decisions = kept + [line for line in self._decisions if not line[2]][-LINES_MAX:]

    def _keep(self, life: Life) -> None:
        if self._number is not None and self._number in (life.number, life.submission):
            life.wanted = True
        self._lives.append(life)
        if len(self._lives) > 2 * LINES_MAX:
            self.missing += sum(life.wanted for life in self._lives[:LINES_MAX])
            self._lives = self._lives[LINES_MAX:]


class _Reader:
    """Joins the lines of one log of qmail-send to lives."""

    def __init__(self, log: str, wants: Callable[..., bool]) -> None:
        self._log = log
        self._wants = wants
        self._lives: dict[int, Life] = {}
        self._running: dict[int, Life] = {}

    def take(self, when: float, event: events.Known) -> Life | None:
        """Add a line to its message; the message if that was its last line."""
        text = event.format().decode("utf-8", "replace")
        match event:
            case events.NewMessage(number):
                self._lives[number] = Life(self._log, number, when)
                self._add(number, when, text)
            case events.MessageInfo(number, _, sender, submission):
                life = self._add(number, when, text)
                life.submission = submission
                life.wanted |= self._wants(sender)
            case events.DeliveryStarted(delivery, number, _, recipient):
                life = self._running[delivery] = self._add(number, when, text)
                life.wanted |= self._wants(recipient)
            case events.DeliveryEnded(delivery):
                ended = self._running.pop(delivery, None)
                if ended is not None:
                    ended.lines.append((when, text))
            case events.BounceQueued(number, submission) | events.NoticeQueued(number, submission):
                self._add(number, when, text).bounces.append(submission)
            case events.BounceDiscarded(number) | events.BounceSuppressed(number):
                self._add(number, when, text)
            case events.MessageEnded(number):
                self._add(number, when, text)
                return self._lives.pop(number)
        return None

    def living(self) -> Iterable[Life]:
        """Those that have not ended."""
        return self._lives.values()

    def _add(self, number: int, when: float, text: str) -> Life:
        life = self._lives.setdefault(number, Life(self._log, number, when))
        if len(life.lines) < LINES_MAX:
            life.lines.append((when, text))
        return life
