"""Notices of success and delay to senders who asked for them (RFC 3461; qmail-send(8), NOTICES).

A notice is made when its recipient is marked, and goes to the queue like a bounce, with the empty sender. It is kept in
memory until the queue has it, and tried again: a crash in between loses it, as it would lose no mail.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable

from pyqmail.formats.bounce_text import return_address
from pyqmail.formats.delivery_status import Outcome
from pyqmail.formats.facts import DELAY, FAILURE, SUCCESS, Facts, RecipientFacts, format_facts
from pyqmail.formats.notice_text import Notice, format_notice
from pyqmail.formats.report import EXPANDED, FORWARDED, PASSED_ON
from pyqmail.intake.background import BackgroundInjections
from pyqmail.log.events import NoticeQueued, Warn
from pyqmail.policy import wishes
from pyqmail.policy.classify import Routing, strip_prepend
from pyqmail.send.bounce import HEADER_MAX, read_header
from pyqmail.send.job import Delivery, Job
from pyqmail.send.means import Means
from pyqmail.send.retry import TROUBLE_S
from pyqmail.spool.channel import recipients_at

PENDING_MAX = 1000  # notices in memory
FULL_S = 0.1  # until bounces have left a place
RELAYED = b"Given to another server, which does not tell of deliveries.\n"
DELIVERED = b"Delivered here.\n"
FANNED_OUT = b"Delivered here, and forwarded; you hear of what fails there.\n"


class Notices:
    """What senders are told of recipients that have not failed, and whether they are told of those that have."""

    def __init__(self, means: Means, injections: BackgroundInjections) -> None:
        self._means = means
        self._injections = injections
        self._waiting: deque[tuple[Notice, bytes, bytes]] = deque()  # each with its text and the facts that it has
        self._paused = False
        self._placed: tuple[Facts, Routing, wishes.Places] | None = None  # the latest

    def unwanted(self, channel: str, delivery: Delivery) -> bool:
        """Whether the sender does not want to hear that ``delivery`` failed. In doubt it is told."""
        return not self._wish(channel, delivery).wants(FAILURE)

    def reached(self, channel: str, delivery: Delivery, text: bytes) -> None:
        """``delivery`` has succeeded with ``text``: tell the sender, unless the next server will."""
        wish = self._wish(channel, delivery)
        if wish.wants(SUCCESS) and not (PASSED_ON in text or FORWARDED in text):
            self._tell("success", delivery.job, [self._outcome(wish, *_success(channel, text))])

    def late(self, channel: str, job: Job) -> None:
        """A pass over ``job`` has left recipients behind: once it is old enough tell the sender, once."""
        means = self._means
        after = means.controls.delay_notice_s
        if not after or job.dying or means.clock() < job.birth + after:
            return
        note = means.history.read(channel, job.number, job.birth)
        if note is None or note.delayed:
            return
        path = means.layout.part(channel, job.number)
        try:
            outcomes = [
                self._outcome(one, "delayed", note.replies.get(offset, b"") + b"\n")
                for (name, offset), one in self._places(job.number).items()
                if name == channel and one.wants(DELAY) and recipients_at(path, (offset,)).get(offset) == one.address
            ]
        except OSError:
            return  # the next pass looks again
        if not outcomes:
            return

        def remember() -> Callable[[], None]:
            kept = means.history.note_delay(channel, job.number, job.birth)
            return lambda: self._tell("delay", job, outcomes) if kept else None

        means.background.submit(remember)

    def _wish(self, channel: str, delivery: Delivery) -> RecipientFacts:
        try:
            places = self._places(delivery.job.number)
        except OSError:
            return RecipientFacts(delivery.recipient)
        return wishes.at(places, channel, delivery.offset, delivery.recipient)

    def _places(self, number: int) -> wishes.Places:
        """Raises OSError."""
        facts, routing = self._means.facts.of(number), self._means.controls.routing
        if self._placed is None or self._placed[0] is not facts or self._placed[1] is not routing:
            self._placed = facts, routing, wishes.place(facts, routing)
        return self._placed[2]

    def _outcome(self, one: RecipientFacts, action: str, text: bytes) -> Outcome:
        address = strip_prepend(one.address, self._means.controls.routing.virtual)
        return Outcome(address, action, text.removesuffix(b"\n") + b"\n", one.orcpt)

    def _tell(self, kind: str, job: Job, outcomes: Iterable[Outcome]) -> None:
        means = self._means
        sender = return_address(job.sender)
        if not sender or job.sender == b"#@[]":
            return
        if len(self._waiting) >= PENDING_MAX:
            means.log(Warn(b"too many notices wait; one of msg %d is lost" % job.number))
            return
        controls = means.controls
        try:
            facts = means.facts.of(job.number)
        except OSError:
            means.log(Warn(b"unable to read the facts of msg %d; a notice of it is lost" % job.number))
            return
        try:
            header = read_header(means.layout.mess(job.number), HEADER_MAX)
        except OSError:
            header = b""
        until = job.birth + max(0, controls.lifetime_s)
        notice = Notice(kind, job.number, sender, facts.envid, job.birth, tuple(outcomes), until)
        mailbox = controls.bounce_from + b"@" + controls.bounce_host
        boundary = b"=_%d.%d.%b" % (int(time.time()), job.number, os.urandom(9).hex().encode())
        text = format_notice(notice, int(means.clock()), mailbox, controls.bounce_host, header, boundary)
        self._waiting.append((notice, text, facts_of_notice(facts, b"")))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and not self._injections.full and not self._paused:
            self._inject(*self._waiting.popleft())
        if self._waiting and not self._paused:
            self._pause(FULL_S)

    def _inject(self, notice: Notice, text: bytes, own: bytes) -> None:
        def done(status: int, qp: int) -> None:
            if status == 0:
                self._means.log(NoticeQueued(notice.number, qp, notice.kind))
                return
            self._means.log(Warn(b"trouble queueing a notice of msg %d, will try later" % notice.number))
            self._waiting.append((notice, text, own))
            self._pause(TROUBLE_S)

        self._injections.inject(iter([text]), b"", notice.sender, done, facts=own)

    def _pause(self, seconds: float) -> None:
        if not self._paused:
            self._paused = True
            self._means.loop.call_later(seconds, self._continue)

    def _continue(self) -> None:
        self._paused = False
        self._go_on()


def _success(channel: str, text: bytes) -> tuple[str, bytes]:
    """The action of RFC 3464 section 2.3.3 for a delivery that succeeded with ``text``, and words for people."""
    if channel != "local":
        return "relayed", RELAYED + text
    return ("expanded", FANNED_OUT) if EXPANDED in text else ("delivered", DELIVERED)


def facts_for_bounce(means: Means, number: int) -> tuple[Facts, dict[bytes, bytes]]:
    """The facts of ``number`` for its bounce, and each ORCPT by address. Raises OSError."""
    facts = means.facts.of(number)
    routing = means.controls.routing
    return facts, wishes.named_first(wishes.place(facts, routing), routing.virtual)


def facts_of_notice(facts: Facts, sender: bytes) -> bytes:
    """The facts of what ``sender`` tells of a message with ``facts``: protected as that was (RFC 8689 section 5)."""
    return format_facts(Facts(requiretls=True), sender) if facts.requiretls else b""
