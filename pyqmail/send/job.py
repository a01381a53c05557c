"""A message while one channel works on it, and the states it goes through there.

      waiting (a number in the schedule, or in the line of a full domain or user)
         | due, and no order stands in the way
         v
      PASSING   its recipients are read, and each is started, skipped (its domain or user is full), or withheld by order
         |
         | the end of the file, an order, or a file that cannot be read
         |------- only skipped ones, none started ------> waiting, in the line of the first one's domain
         v
      OPEN      a delivery has not reported, or its failure is not on disk yet
         |
         v
      HELD      skipped recipients wait for their domain or user, until ``retry`` at the latest
         |
         v
      SETTLED   a recipient is left: waiting again, due at ``retry``
                none is left: the channel file is removed, and the message ends if the other channel has none either

A fresh message has no channel file.  It is offered to the channel straight from todo/:

      FRESH     waits for its first delivery, or has it
         |------- delivered ------> gone, without ever having had a channel file
         v
      OPEN      deferred or failed: its files are written first, and then the report is acted on as for any other
"""

from dataclasses import dataclass, field
from enum import Enum

from pyqmail.protocol import spawn
from pyqmail.spool.preprocess import New
from pyqmail.system.loop import Timer
from pyqmail.values import value

GIVE_UP = b"I'm not going to try again; this message has been in the queue too long.\n"


class JobState(Enum):
    """Where a job is in the drawing above."""

    PASSING = "passing"
    OPEN = "open"
    HELD = "held"
    SETTLED = "settled"
    FRESH = "fresh"


@dataclass(slots=True)
class Job:
    """A message that a pass has begun: ``open`` deliveries and unfinished marks hold it."""

    number: int
    sender: bytes
    birth: int
    retry: int
    dying: bool
    open: int = 0
    not_done: int = 0
    at_end: bool = False
    passing: bool = True
    fresh: New | None = None  # it has no files but those in mess/ and todo/
    copy: bytes = b""  # the ID of its copy elsewhere, if it has one
    started: bool = False
    skipped: list[tuple[bytes, int]] = field(default_factory=list)  # domain or user and offset, of this pass
    held: int = 0  # skipped recipients that wait for their domains
    overdue: bool = False  # they wait no longer
    timer: Timer | None = None
    replies: dict[int, bytes] = field(default_factory=dict)  # deferrals of this pass, by offset

    @property
    def state(self) -> JobState:
        """The state that its parts add up to."""
        if self.fresh is not None:
            return JobState.FRESH
        if self.passing:
            return JobState.PASSING
        if self.open:
            return JobState.OPEN
        return JobState.HELD if self.held else JobState.SETTLED

    @property
    def finished(self) -> bool:
        """Whether a settled job has no recipient left in its channel."""
        return self.at_end and not self.not_done

    @property
    def only_skipped(self) -> bool:
        """Whether its whole pass met nothing but full domains, so that it may wait for the first as a mere number."""
        return bool(self.skipped) and self.at_end and not self.started


@value
class Delivery:
    """One recipient on its way."""

    job: Job
    serial: int
    offset: int
    recipient: bytes
    key: bytes  # the domain, the provider or the user that it is counted by


def judge(job: Job, letter: bytes, text: bytes) -> tuple[bytes, bytes]:
    """What a report means for ``job``: a message that is too old is not deferred any more."""
    if letter == spawn.DEFERRAL and job.dying:
        return spawn.FAILURE, text + GIVE_UP
    return letter, text
