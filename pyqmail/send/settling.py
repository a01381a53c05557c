"""What a report leads to in the queue, and what becomes of a message once nothing holds it (qmail-send(8))."""

from collections.abc import Sequence

from pyqmail.formats.report import held_back
from pyqmail.log.events import BounceSuppressed, Warn
from pyqmail.policy.classify import strip_prepend
from pyqmail.protocol import spawn
from pyqmail.send.agenda import Agenda, Resume
from pyqmail.send.failures import Failures
from pyqmail.send.job import Delivery, Job, JobState
from pyqmail.send.means import Means
from pyqmail.send.neighbours import Messages, Orders
from pyqmail.send.queue_pass import SKIPPED_MAX
from pyqmail.send.retry import ROOT_STEP, TROUBLE_S, next_retry
from pyqmail.spool.channel import mark_done
from pyqmail.spool.history import REPLIES_MAX, trimmed
from pyqmail.system import files


class Settling:
    """Marks recipients, and ends or reschedules the messages of one channel."""

    def __init__(self, name: str, means: Means, messages: Messages, orders: Orders, agenda: Agenda) -> None:
        self.jobs: dict[int, Job] = {}  # those with files of their own
        self._name = name
        self._means = means
        self._messages = messages
        self._orders = orders
        self._schedule = agenda.schedule
        self._shares = agenda.shares
        self._failures = Failures(means, self._failure_recorded)

    @property
    def idle(self) -> bool:
        """Whether all that was reported is in the queue's files."""
        return self._failures.idle

    def act_on(self, deliveries: Sequence[Delivery], letter: bytes, text: bytes) -> None:
        """Do in the queue what a report on ``deliveries``, all of one message, asks for."""
        job = deliveries[0].job
        facts = job.number in self._means.facts
        if letter == spawn.SUCCESS:
            for delivery in deliveries:
                self._tell_of_success(delivery, text, facts=facts)
            self._done(job, deliveries)
        elif letter == spawn.FAILURE:
            for delivery in deliveries:
                self._fail(delivery, text, facts=facts)
        else:
            for delivery in deliveries[: REPLIES_MAX - len(job.replies)]:
                job.replies[delivery.offset] = trimmed(text)
            if self._name == "remote" and held_back(letter, text):
                self.hold(job, [(self._shares.key(delivery.recipient), delivery.offset) for delivery in deliveries])
            self._release(job, len(deliveries))

    def _tell_of_success(self, delivery: Delivery, text: bytes, *, facts: bool) -> None:
        if facts:
            self._messages.notices.reached(self._name, delivery, text)
        if self._means.shadow is not None:
            recipient = strip_prepend(delivery.recipient, self._means.controls.routing.virtual)
            self._means.shadow.done(delivery.job.copy, self._name, delivery.offset, recipient)

    def _fail(self, delivery: Delivery, text: bytes, *, facts: bool) -> None:
        if facts and self._messages.notices.unwanted(self._name, delivery):
            self._means.log(BounceSuppressed(delivery.job.number))
            self._done(delivery.job, (delivery,))
        else:
            self._failures.add(delivery, text)

    def hold(self, job: Job, recipients: Sequence[tuple[bytes, int]]) -> None:
        """Let ``recipients``, keys with offsets, wait for room, but no longer than those that were tried wait."""
        kept = recipients[: max(0, SKIPPED_MAX - len(self._shares))]
        if job.overdue or not kept:
            return
        job.held += len(kept)
        if job.timer is None:
            wait = max(0, job.retry - self._means.clock())
            job.timer = self._means.loop.call_later(wait, lambda: self._wait_no_longer(job))
        for key, offset in kept:
            self._shares.hold(key, Resume(job, offset))

    def _wait_no_longer(self, job: Job) -> None:
        job.held = 0
        job.overdue = True
        self.settle(job)

    def _failure_recorded(self, delivery: Delivery, believed: bool) -> None:
        if believed:
            self._done(delivery.job, (delivery,))
        else:
            self._release(delivery.job)

    def _release(self, job: Job, deliveries: int = 1) -> None:
        job.open -= deliveries
        self.settle(job)

    def _done(self, job: Job, deliveries: Sequence[Delivery]) -> None:
        try:
            mark_done(self._means.layout.part(self._name, job.number), [delivery.offset for delivery in deliveries])
        except OSError:
            name = self._means.layout.relative(self._name, job.number).encode()
            self._means.log(Warn(b"trouble marking %b; message will be delivered twice!" % name))
        job.not_done -= len(deliveries)
        self._release(job, len(deliveries))

    def settle(self, job: Job) -> None:
        """Reschedule ``job``, or end it in this channel, once nothing holds it."""
        if job.state is not JobState.SETTLED:
            return
        if job.timer is not None:
            job.timer.cancel()
        self.jobs.pop(job.number, None)
        if job.finished:
            self._end(job.number)
            return
        if job.started:
            self._means.history.add(self._name, job.number, job.replies)
            if job.number in self._means.facts:
                self._messages.notices.late(self._name, job)
        now = int(self._means.clock())  # the clock may have gone back since the pass began
        self._schedule.add(job.number, min(job.retry, next_retry(job.birth, now, ROOT_STEP[self._name])))
        self._orders.settled(job.number)

    def _end(self, number: int) -> None:
        """No recipient of ``number`` is left here."""
        self._means.history.forget(self._name, number)
        try:
            files.unlink(self._means.layout.part(self._name, number))
        except OSError:
            name = self._means.layout.relative(self._name, number).encode()
            self._means.log(Warn(b"unable to unlink %b; will try again later" % name))
            self._schedule.add(number, int(self._means.clock()) + TROUBLE_S)
            return
        self._messages.channel_empty(self._name, number)
        self._orders.settled(number)
