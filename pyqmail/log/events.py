"""The lines of qmail-send's log, a class each: ``format`` writes one, ``parse_event`` reads it (qmail-log(5)).

The fields are what was meant, and ``format`` makes strangers' text safe for a line.  Of what is safe already, parse of
format is identity.
"""

import re
from dataclasses import dataclass
from typing import Protocol, Self

from pyqmail.formats.logline import safe


class Event(Protocol):
    """Something that happened."""

    def format(self) -> bytes:
        """Its line, without the newline."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """qmail-send has found message ``number``."""

    number: int

    def format(self) -> bytes:
        """``new msg N``."""
        return b"new msg %d" % self.number


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class BounceQueued:
    """The failures of message ``number`` are on their way to its sender, as submission ``qp``."""

    number: int
    qp: int

    def format(self) -> bytes:
        """``bounce msg N qp P``."""
        return b"bounce msg %d qp %d" % (self.number, self.qp)


@dataclass(frozen=True, slots=True)
class BounceDiscarded:
    """Nobody is left to tell of the failures of message ``number``, a ``kind`` bounce: double or triple."""

    number: int
    kind: str

    def format(self) -> bytes:
        """``double bounce: discarding bounce/N``."""
        return b"%b bounce: discarding bounce/%d" % (self.kind.encode(), self.number)


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """Message ``number`` has left the queue."""

    number: int

    def format(self) -> bytes:
        """``end msg N``."""
        return b"end msg %d" % self.number


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Exiting:
    """The last line."""

    def format(self) -> bytes:
        """``status: exiting``."""
        return b"status: exiting"


@dataclass(frozen=True, slots=True)
class OrderGiven:
    """Somebody gave an order (qmail-q(8)): ``control: uid 0: hold msg 457``."""

    text: bytes

    def format(self) -> bytes:
        """``control: TEXT``."""
        return b"control: " + self.text


@dataclass(frozen=True, slots=True)
class Warn:
    """Trouble with a file of the queue, looked at again later or in need of a look by a person."""

    text: bytes

    def format(self) -> bytes:
        """``warning: TEXT``."""
        return b"warning: " + self.text


@dataclass(frozen=True, slots=True)
class Alert:
    """What needs somebody soon."""

    text: bytes

    def format(self) -> bytes:
        """``alert: TEXT``."""
        return b"alert: " + self.text


@dataclass(frozen=True, slots=True)
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
        return b"".join(b" %b=%b" % (key, safe(value)) for key, value in self.words)

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
    | MessageEnded
    | Running
    | Exiting
    | OrderGiven
    | Warn
    | Alert
    | Decision
)

_NEW = re.compile(rb"new msg (\d{1,20})\Z")
_INFO = re.compile(rb"info msg (\d{1,20}): bytes (\d{1,20}) from <(.*)> qp (\d{1,20}) uid (\d{1,20})\Z")
_START = re.compile(rb"starting delivery (\d{1,20}): msg (\d{1,20}) to (local|remote) (.*)\Z")
_END = re.compile(rb"delivery (\d{1,20}): (?:(success|failure|deferral): ?(.*)|report mangled, will defer)\Z")
_BOUNCE = re.compile(rb"(?:double |triple )?bounce msg (\d{1,20}) qp (\d{1,20})")
_DISCARDED = re.compile(rb"(double|triple) bounce: discarding bounce/(\d{1,20})\Z")
_DONE = re.compile(rb"end msg (\d{1,20})\Z")
_RUNNING = re.compile(rb"status: local (\d{1,20})/(\d{1,20}) remote (\d{1,20})/(\d{1,20})( exitasap)?\Z")
_DECISION = re.compile(
    rb"(qmail-(?:smtpd|qmtpd|qmqpd)): (accepted|refused) ip=(\S*) helo=(\S*) from=<(.*?)> to=(\S*)((?: \S*)*)\Z"
)


def parse_event(text: bytes) -> Known | None:
    """What ``text``, a line without its time, says; None for a line of another kind."""
    begin = text[:4]
    if begin in _BY_BEGIN:
        return _BY_BEGIN[begin](text)
    match = _DECISION.match(text)
    return Decision.parse(match) if match is not None else None


def _parse_new(text: bytes) -> Known | None:
    match = _NEW.match(text)
    return NewMessage(int(match[1])) if match else None


def _parse_info(text: bytes) -> Known | None:
    match = _INFO.match(text)
    return MessageInfo(int(match[1]), int(match[2]), match[3], int(match[4]), int(match[5])) if match else None


def _parse_start(text: bytes) -> Known | None:
    if match := _START.match(text):
        return DeliveryStarted(int(match[1]), int(match[2]), match[3].decode(), match[4])
    return _parse_status(text)


def _parse_status(text: bytes) -> Known | None:
    if match := _RUNNING.match(text):
        return Running(int(match[1]), int(match[2]), int(match[3]), int(match[4]), match[5] is not None)
    return Exiting() if text == Exiting().format() else None


def _parse_end(text: bytes) -> Known | None:
    match = _END.match(text)
    if match is None:
        return None
    result = match[2]
    return DeliveryEnded(int(match[1]), result.decode() if result else "mangled", match[3] or b"")


def _parse_bounce(text: bytes) -> Known | None:
    if match := _BOUNCE.match(text):
        return BounceQueued(int(match[1]), int(match[2]))
    match = _DISCARDED.match(text)
    return BounceDiscarded(int(match[2]), match[1].decode()) if match else None


def _parse_done(text: bytes) -> Known | None:
    match = _DONE.match(text)
    return MessageEnded(int(match[1])) if match else None


def _parse_text(text: bytes) -> Known | None:
    kind, colon, rest = text.partition(b": ")
    if not colon:
        return None
    match kind:
        case b"alert":
            return Alert(rest)
        case b"warning":
            return Warn(rest)
        case b"control":
            return OrderGiven(rest)
    return None


_BY_BEGIN = {
    b"new ": _parse_new,
    b"info": _parse_info,
    b"star": _parse_start,
    b"stat": _parse_status,
    b"deli": _parse_end,
    b"boun": _parse_bounce,
    b"doub": _parse_bounce,
    b"trip": _parse_bounce,
    b"end ": _parse_done,
    b"aler": _parse_text,
    b"warn": _parse_text,
    b"cont": _parse_text,
}
