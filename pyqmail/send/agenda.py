"""What one channel does next: the decisions alone, by values (qmail-send(8)).

Three kinds of work wait, and are served in turn so that none has to wait for all of another: fresh messages, offered
straight from todo/; messages and recipients that waited for a full domain or user; and messages whose time has come.
"""

from collections import deque

from pyqmail.send.job import Job
from pyqmail.send.retry import NEVER, Schedule
from pyqmail.send.shares import Shares
from pyqmail.values import value

FRESH_MAX = 1000  # messages that wait in todo/ for a free slot; more get their files first
FRESH_S = 5  # that one of them may wait for its domain or user


@value
class First:
    """Deliver the fresh message of ``job`` to its one recipient. ``until``: when it should get its files instead."""

    job: Job
    recipient: bytes
    until: float


@value
class Resume:
    """Deliver to a recipient of ``job`` that had been skipped."""

    job: Job
    offset: int


@value
class Begin:
    """Begin a pass over message ``number``."""

    number: int


Step = First | Resume | Begin


class Agenda:
    """The schedule, the lines and the fresh messages of one channel."""

    def __init__(self, shares: Shares[int | Resume | First]) -> None:
        """A number in a line of ``shares`` is a message that waits as a whole."""
        self.schedule = Schedule()
        self.shares = shares
        self._fresh: deque[First] = deque()
        self._held: deque[First] = deque()  # fresh ones that were put into a line, in the order of ``until``
        self._fresh_next = False
        self._shares_next = False

    def offer(self, job: Job, recipient: bytes, now: float) -> bool:
        """Take a fresh message; False where too many wait."""
        self._forget_started()
        if len(self._fresh) + len(self._held) >= FRESH_MAX:
            return False
        self._fresh.append(First(job, recipient, now + FRESH_S))
        return True

    def next(self, now: float) -> Step | None:
        """What to do now; None when nothing is due."""
        if self.next_time() > now:
            return None
        first = self._next_fresh(int(now))
        return first if first is not None else self._next_waiting(int(now))

    def next_time(self) -> float:
        """When ``next`` has something, in seconds of the epoch: 0 for now, inf for never."""
        if self._fresh or self.shares.has_room:
            return 0
        return self.schedule.next_time()

    def patience(self) -> float:
        """When the first fresh message has waited too long for its domain or user."""
        if not self._held:
            return NEVER
        self._forget_started()
        return self._held[0].until if self._held else NEVER

    def impatient(self, now: float) -> list[First]:
        """The fresh messages that have; they are not in their lines any more."""
        found = []
        while self.patience() <= now:
            first = self._held.popleft()
            first.job.overdue = True
            found.append(first)
        return found

    def _forget_started(self) -> None:
        while self._held and (self._held[0].job.started or self._held[0].job.overdue):
            self._held.popleft()

    def _next_fresh(self, now: int) -> First | None:
        if not self._fresh:
            return None
        self._fresh_next = not self._fresh_next
        if not self._fresh_next and self.schedule.next_time() <= now:
            return None
        while self._fresh:
            first = self._fresh.popleft()
            key = self.shares.key(first.recipient)
            if not self.shares.full(key):
                return first
            self.shares.hold(key, first)
            self._held.append(first)
        return None

    def _next_waiting(self, now: int) -> Step | None:
        self._shares_next = not self._shares_next
        if self._shares_next and (step := self._next_of_shares()) is not None:
            return step
        number = self.schedule.pop_due(now)
        return Begin(number) if number is not None else self._next_of_shares()

    def _next_of_shares(self) -> Step | None:
        while (entry := self.shares.take()) is not None:
            if isinstance(entry, int):
                return Begin(entry)
            if not entry.job.overdue:
                return entry
        return None
