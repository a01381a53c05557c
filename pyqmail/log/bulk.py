"""The lines of multilog counted quickly: one expression finds the usual ones, all others are read as ever.

What comes out is what parse_line, Joiner and add_item make of the same lines (tests/log/test_bulk.py). The half of a
log is counted by itself, too: lines whose message or delivery began before it are given to who has counted that.
"""

import re
import struct
from binascii import a2b_hex
from typing import Any, Generic, TypeVar

from pyqmail.log import events
from pyqmail.log.counts import PLACES, Counts, Ended, Left
from pyqmail.log.joiner import forget_oldest
from pyqmail.log.stamps import TAI_LABEL, TAI_OFFSET_S, parse_line
from pyqmail.log.twins import Twins

LABEL_S = TAI_LABEL + TAI_OFFSET_S
STRAYS_MAX = 64 << 20  # bytes of lines that are kept for who has counted the first half
_STATUS = rb"@[0-9a-f]{24} status: local \d{1,20}/\d{1,20} remote \d{1,20}/\d{1,20}\n"
_KNOWN = (
    rb"@([0-9a-f]{24}) (?:"
    rb"new msg ([1-9]\d{0,19})"
    rb"|starting delivery ([1-9]\d{0,19}): msg ([1-9]\d{0,19}) to (local|remote) ([^\n]*)"
    rb"|delivery ([1-9]\d{0,19}): (success|failure|deferral): ?([^\n]*)"
    rb"|info msg ([1-9]\d{0,19}): bytes (\d{1,20}) from <([^\n]*)> qp \d{1,20} uid \d{1,20}"
    rb"|end msg ([1-9]\d{0,19})"
    rb"|qmail-(?:smtpd|qmtpd|qmqpd|xferd): (accepted|refused) ip=\S* helo=\S* from=<\S*> to=\S*((?: \S*)*)"
    rb")\n"
)
# One line of a log, and a status before it. The last group that has matched says which kind it is.
_LINE = re.compile(rb"(?:%b)?(?:%b|([^\n]*)\n)" % (_STATUS, _KNOWN))
_OURS = re.compile(_STATUS + rb"|" + _KNOWN)
_NEW, _STARTED, _ENDED, _INFO, _LEFT, _DECIDED, _OTHER = 2, 6, 9, 12, 13, 15, 16
_TAI64N = struct.Struct(">QL")
_PLACES = {result.encode(): place for result, place in PLACES.items()}
Counting = TypeVar("Counting", bound=Counts)
Waiting = list[Any]  # what is known of a message; a class of its own would make the whole a tenth slower
_BEGAN, _SENDER, _SIZE, _BOUNCED = range(4)


class Bulk(Generic[Counting]):
    """Counts the lines of a log. ``inside``: they begin in its middle; lines of earlier messages become ``strays``."""

    def __init__(self, counts: Counting, *, inside: bool = False) -> None:
        self.counts = counts
        self.seen = False  # anything
        self.understood = False  # a line of ours
        self.strays: list[bytes] = []
        self._stray_bytes = 0
        self._inside = inside
        self._twins = Twins()
        self._messages: dict[bytes, Waiting] = {}
        self._running: dict[bytes, tuple[Waiting, bytes, bytes]] = {}  # message, channel and recipient by delivery
        self._ended: list[Ended] = []  # that are not counted yet
        self._left: list[Left] = []

    def feed(self, text: bytes) -> None:
        """Count whole lines."""
        if b"\r" in text:  # a line end, too
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self.seen |= text != b""
        self.understood = self.understood or _OURS.search(text) is not None
        if b' {"' in text:  # JSON, or a text that looks like it
            self._feed_lines(text)
        else:
            self._feed_classic(text)
        self.counts.add_deliveries(self._ended)
        self.counts.add_messages(self._left)
        self._ended.clear()
        self._left.clear()
        forget_oldest(self._messages)
        forget_oldest(self._running)

    def _feed_lines(self, text: bytes) -> None:
        for line in text.splitlines(keepends=True):
            parsed = self._twins.parse(line.decode("utf-8", "replace"))
            if parsed is not None and not self._take(*parsed):
                self._add_stray(line)

    def _feed_classic(self, text: bytes) -> None:
        """Most of the time of a long log is spent here, so that nothing usual is a call of its own."""
        messages, running, ended = self._messages, self._running, self._ended
        stamp, when = b"", 0.0
        for match in _LINE.finditer(text):
            kind = match.lastindex
            if kind == _STARTED:
                delivery, number, channel, recipient = match.group(3, 4, 5, 6)
                if number in messages:
                    running[delivery] = messages[number], channel, recipient
                elif not self._start(delivery, number, channel, recipient):
                    self._add_stray(match[0])
                continue
            if kind == _INFO:
                number, size, sender = match.group(10, 11, 12)
                if not self._inform(number, int(size), sender):
                    self._add_stray(match[0])
                continue
            if kind == _OTHER:
                if not self._take(*parse_line(match[16].decode("utf-8", "replace"))):
                    self._add_stray(match[0])
                continue
            if match[1] != stamp:
                stamp = match[1]
                seconds, nanoseconds = _TAI64N.unpack(a2b_hex(stamp))
                when = seconds - LABEL_S + nanoseconds / 1e9
            if kind == _ENDED:
                delivery, result, answer = match.group(7, 8, 9)
                if delivery in running:
                    message, channel, recipient = running.pop(delivery)
                    ended.append((when, _PLACES[result], channel, recipient, answer, message[_BEGAN]))
                elif self._inside:
                    self._add_stray(match[0])
            elif kind == _NEW:
                messages[match[2]] = [when, b"", 0, False]
            elif kind == _DECIDED:
                self.counts.add_session(when, match[14].decode(), match[15])
            elif not self._leave(match[13], when):
                self._add_stray(match[0])

    def _add_stray(self, line: bytes) -> None:
        self.strays.append(line)
        self._stray_bytes += len(line)
        if self._stray_bytes > STRAYS_MAX:
            self._inside = False  # a torn log: what it is of cannot be known

    def _take(self, when: float | None, event: events.Known | None) -> bool:
        """Count a line of any kind, in the slow way; False for one of a message that began before."""
        self.understood |= event is not None
        match event:
            case events.NewMessage(number):
                self._messages[b"%d" % number] = [when, b"", 0, False]
            case events.MessageInfo(number, size, sender):
                return self._inform(b"%d" % number, size, sender)
            case events.DeliveryStarted(delivery, number, channel, recipient):
                return self._start(b"%d" % delivery, b"%d" % number, channel.encode(), recipient)
            case events.DeliveryEnded(delivery, result, text) if result != "mangled":
                return self._end(b"%d" % delivery, PLACES[result], text, when)
            case events.BounceQueued(number) | events.BounceDiscarded(number):
                return self._bounce(b"%d" % number)
            case events.MessageEnded(number):
                return self._leave(b"%d" % number, when)
            case events.Decision():
                self.counts.add_session(when, event.result, event.tail)
            case events.Warn() | events.Alert():
                self.counts.add_trouble(when, event.format())
        return True

    def _message(self, number: bytes) -> Waiting | None:
        """What is known of a message; None where somebody else may know."""
        message = self._messages.get(number)
        if message is None and not self._inside:
            message = self._messages[number] = [None, b"", 0, False]
        return message

    def _start(self, delivery: bytes, number: bytes, channel: bytes, recipient: bytes) -> bool:
        message = self._messages.get(number) or self._message(number)
        if message is None:
            self._running.pop(delivery, None)  # of a qmail-send that was killed: its numbers begin anew
            return False
        self._running[delivery] = message, channel, recipient
        return True

    def _end(self, delivery: bytes, place: int, text: bytes, when: float | None) -> bool:
        found = self._running.pop(delivery, None)
        if found is None:
            return not self._inside
        message, channel, recipient = found
        self._ended.append((when, place, channel, recipient, text, message[_BEGAN]))
        return True

    def _inform(self, number: bytes, size: int, sender: bytes) -> bool:
        message = self._messages.get(number) or self._message(number)
        if message is None:
            return False
        message[_SENDER], message[_SIZE] = sender, size
        return True

    def _bounce(self, number: bytes) -> bool:
        message = self._message(number)
        if message is None:
            return False
        message[_BOUNCED] = True
        return True

    def _leave(self, number: bytes, when: float | None) -> bool:
        message = self._messages.pop(number, None)
        if message is None:
            if self._inside:
                return False
            message = [None, b"", 0, False]
        self._left.append((when, message[_SENDER], message[_SIZE], message[_BOUNCED]))
        return True

    def go_on(self, other: "Bulk[Counting]") -> None:
        """Take up what ``other`` has counted of the lines that come next."""
        for line in other.strays:
            self.feed(line)
        self.counts.merge(other.counts)
        self.seen |= other.seen
        self.understood |= other.understood
