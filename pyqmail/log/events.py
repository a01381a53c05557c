"""The lines of qmail-send's log, a class each: ``format`` writes one, log/parse.py reads it (qmail-log(5)).

The fields are what was meant, and ``format`` makes strangers' text safe for a line.  Of what is safe already, parse of
format is identity.
"""

import re

from pyqmail.formats.logline import safe
from pyqmail.system.typed import Protocol, Self
from pyqmail.values import value


class Event(Protocol):
    """Something that happened."""

    def format(self) -> bytes:
        """Its line, without the newline."""


@value
class NewMessage:
    """qmail-send has found message ``number``."""

    number: int

    def format(self) -> bytes:
        """``new msg N``."""
        return b"new msg %d" % self.number


@value
class MessageInfo:
    """What message ``number`` is: its bytes, its envelope sender, and the submission ``qp`` of user ``uid``."""

    number: int
    size: int
    sender: bytes
    qp: int
    uid: int

    def format(self) -> bytes:
        """``info msg N: bytes B from <S> qp P uid U``."""
        fields = (self.number, self.size, safe(self.sender), self.qp, self.uid)
        return b"info msg %d: bytes %d from <%b> qp %d uid %d" % fields


@value
class DeliveryStarted:
    """Delivery ``delivery`` of message ``number`` begins."""

    delivery: int
    number: int
    channel: str
    recipient: bytes

    def format(self) -> bytes:
        """``starting delivery D: msg N to local R``."""
        fields = (self.delivery, self.number, self.channel.encode(), safe(self.recipient))
        return b"starting delivery %d: msg %d to %b %b" % fields


@value
class DeliveryEnded:
    """Delivery ``delivery`` has ended; ``result`` is success, failure, deferral, or mangled, which has no text."""

    delivery: int
    result: str
    text: bytes = b""

    def format(self) -> bytes:
        """``delivery D: success: TEXT``."""
        if self.result == "mangled":
            return b"delivery %d: report mangled, will defer" % self.delivery
        return b"delivery %d: %b: %b" % (self.delivery, self.result.encode(), safe(self.text))


@value
class BounceQueued:
    """The failures of message ``number`` are on their way to its sender, as submission ``qp``."""

    number: int
    qp: int

    def format(self) -> bytes:
        """``bounce msg N qp P``."""
        return b"bounce msg %d qp %d" % (self.number, self.qp)


@value
class BounceDiscarded:
    """Nobody is left to tell of the failures of message ``number``, a ``kind`` bounce: double or triple."""

    number: int
    kind: str

    def format(self) -> bytes:
        """``double bounce: discarding bounce/N``."""
        return b"%b bounce: discarding bounce/%d" % (self.kind.encode(), self.number)


@value
class BounceSuppressed:
    """A recipient of message ``number`` has failed, and its sender did not want to hear of that."""

    number: int

    def format(self) -> bytes:
        """``bounce msg N suppressed (NOTIFY=NEVER)``."""
        return b"bounce msg %d suppressed (NOTIFY=NEVER)" % self.number


@value
class NoticeQueued:
    """The sender of message ``number`` is told of a ``kind``, success or delay, by submission ``qp``."""

    number: int
    qp: int
    kind: str

    def format(self) -> bytes:
        """``notice msg N qp P: delay``."""
        return b"notice msg %d qp %d: %b" % (self.number, self.qp, self.kind.encode())


@value
class MessageEnded:
    """Message ``number`` has left the queue."""

    number: int

    def format(self) -> bytes:
        """``end msg N``."""
        return b"end msg %d" % self.number


@value
class Running:
    """How many deliveries are under way, of how many, in each channel; ``exiting`` after TERM."""

    local: int
    local_limit: int
    remote: int
    remote_limit: int
    exiting: bool = False

    def format(self) -> bytes:
        """``status: local L/L remote R/R``."""
        counts = (self.local, self.local_limit, self.remote, self.remote_limit)
        return b"status: local %d/%d remote %d/%d" % counts + (b" exitasap" if self.exiting else b"")


@value
class Exiting:
    """The last line."""

    def format(self) -> bytes:
        """``status: exiting``."""
        return b"status: exiting"


@value
class OrderGiven:
    """Somebody gave an order (qmail-q(8)): ``control: uid 0: hold msg 457``."""

    text: bytes

    def format(self) -> bytes:
        """``control: TEXT``."""
        return b"control: " + self.text


@value
class Warn:
    """Trouble with a file of the queue, looked at again later or in need of a look by a person."""

    text: bytes

    def format(self) -> bytes:
        """``warning: TEXT``."""
        return b"warning: " + self.text


@value
class Alert:
    """What needs somebody soon."""

    text: bytes

    def format(self) -> bytes:
        """``alert: TEXT``."""
        return b"alert: " + self.text


@value
class Decision:
    """A door has accepted or refused mail (qmail-smtpd(8), DECISIONS).

    ``to`` is the recipients as they stand there, ``<a>,<b>,+3``; ``words`` what follows: bytes, qp, reason, and what
    checks have found out.
    """

    program: bytes
    result: str
    ip: bytes
    helo: bytes
    sender: bytes
    to: bytes
    words: tuple[tuple[bytes, bytes], ...] = ()

    def format(self) -> bytes:
        """``qmail-smtpd: accepted ip=IP helo=NAME from=<S> to=<R> bytes=N qp=N``."""
        fields = (self.program, self.result.encode(), safe(self.ip), safe(self.helo), safe(self.sender), self.to)
        return b"%b: %b ip=%b helo=%b from=<%b> to=%b" % fields + self.tail

    @property
    def tail(self) -> bytes:
        """The words as they stand in the line, each with a blank before it."""
        return b"".join([b" %b=%b" % (key, safe(value)) for key, value in self.words])

    @classmethod
    def parse(cls, match: "re.Match[bytes]") -> Self:
        """The decision of a line that matched."""
        program, result, ip, helo, sender, to, tail = match.groups()
        words = tuple((key, value) for key, _, value in (word.partition(b"=") for word in tail.split(b" ")[1:]))
        return cls(program, result.decode(), ip, helo, sender, to, words)


Known = (
    NewMessage
    | MessageInfo
    | DeliveryStarted
    | DeliveryEnded
    | BounceQueued
    | BounceDiscarded
    | BounceSuppressed
    | NoticeQueued
    | MessageEnded
    | Running
    | Exiting
    | OrderGiven
    | Warn
    | Alert
    | Decision
)
