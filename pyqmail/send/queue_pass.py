"""A pass: the recipients of one message in one channel, those not done, one after another."""

from enum import Enum

from pyqmail.log.events import Warn
from pyqmail.log.sinks import Sink
from pyqmail.send.job import Job
from pyqmail.send.shares import Key, domain_of
from pyqmail.spool.channel import Pause, UnknownMark
from pyqmail.system.typed import Protocol
from pyqmail.values import value

SKIPPED_MAX = 50_000  # recipients whose offsets wait for their domains; more wait for their message's next retry


class Recipients(Protocol):
    """The channel file (spool/channel.py)."""

    def read_on(self) -> tuple[int, bytes] | Pause | None:
        """Offset and address of the next one not done, a pause, or None at the end. Raises OSError, UnknownMark."""

    def close(self) -> None:
        """Give the descriptor back."""


class Permits(Protocol):
    """What people ordered (send/queue_orders.py)."""

    def stops(self, number: int) -> bool:
        """Whether no further delivery of ``number`` may start."""

    def withholds_recipient(self, recipient: bytes) -> bool:
        """Whether ``recipient`` must not be tried."""


class Room(Protocol):
    """What may run at once (send/shares.py)."""

    @property
    def key(self) -> Key:
        """What a recipient is counted by."""

    def full(self, key: bytes) -> bool:
        """Whether one more would be too many."""


@value
class Start:
    """Deliver to this recipient."""

    offset: int
    recipient: bytes


class Nothing(Enum):
    """No recipient to start now."""

    PASSED = "passed over"  # done, withheld or skipped: ask again
    OVER = "over"  # the pass has ended


class QueuePass:
    """One pass over ``job``; the log calls its file ``name``."""

    def __init__(self, job: Job, recipients: Recipients, name: bytes, log: Sink) -> None:
        self.job = job
        self._recipients = recipients
        self._name = name
        self._log = log
        self._met: tuple[int, bytes] | OSError | UnknownMark | None = None  # while looking for neighbours

    def _read_on(self) -> tuple[int, bytes] | Pause | None:
        met, self._met = self._met, None
        if isinstance(met, Exception):
            raise met
        return met or self._recipients.read_on()

    def neighbours(self, first: Start, most: int, permits: Permits) -> list[Start]:
        """``first`` and those right behind it that may go with it: of its domain, and no more than ``most``."""
        found = [first]
        domain = domain_of(first.recipient)
        while len(found) < most:
            try:
                met = self._read_on()
            except (OSError, UnknownMark) as error:
                self._met = error
                break
            if met is None or isinstance(met, Pause):
                break
            if domain_of(met[1]) != domain or permits.withholds_recipient(met[1]):
                self._met = met
                break
            found.append(Start(*met))
        return found

    def advance(self, permits: Permits, room: Room) -> Start | Nothing:
        """Look at one more recipient, or a piece of the file without any."""
        if permits.stops(self.job.number):
            return Nothing.OVER
        try:
            found = self._read_on()
        except UnknownMark:
            self._log(Warn(b"unknown record type in %b!" % self._name))
            return Nothing.OVER
        except OSError:
            self._log(Warn(b"trouble reading %b; will try again later" % self._name))
            return Nothing.OVER
        if isinstance(found, Pause):
            return Nothing.PASSED
        if found is None:
            self.job.at_end = True
            return Nothing.OVER
        return self._judge(*found, permits, room)

    def _judge(self, offset: int, recipient: bytes, permits: Permits, room: Room) -> Start | Nothing:
        job = self.job
        if permits.withholds_recipient(recipient):
            job.not_done += 1
            return Nothing.PASSED
        if room.full(key := room.key(recipient)):
            job.not_done += 1
            if len(job.skipped) < SKIPPED_MAX:
                job.skipped.append((key, offset))
            return Nothing.PASSED
        return Start(offset, recipient)

    def close(self) -> None:
        """The pass has ended."""
        self._recipients.close()
        self.job.passing = False
