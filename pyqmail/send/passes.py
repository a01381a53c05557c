"""The passes of one channel, one after another, and the recipients that they had to skip (qmail-send(8))."""

from pyqmail.log.events import Warn
from pyqmail.send.agenda import Agenda
from pyqmail.send.delivery import Deliveries
from pyqmail.send.job import Job
from pyqmail.send.means import Means
from pyqmail.send.neighbours import Messages, Orders
from pyqmail.send.queue_pass import Nothing, QueuePass
from pyqmail.send.retry import ROOT_STEP, TROUBLE_S, next_retry
from pyqmail.send.settling import Settling
from pyqmail.send.shadow_link import WAIT_S
from pyqmail.spool import sweep
from pyqmail.spool.channel import RecipientFile, read_info, recipient_at


class Passes:
    """Reads what is due and starts its deliveries. ``current``: the pass that is open."""

    def __init__(
        self,
        means: Means,
        messages: Messages,
        orders: Orders,
        agenda: Agenda,
        deliveries: Deliveries,
        settling: Settling,
    ) -> None:
        self.current: QueuePass | None = None
        self._name = deliveries.name
        self._means = means
        self._messages = messages
        self._orders = orders
        self._agenda = agenda
        self._deliveries = deliveries
        self._settling = settling

    def _path(self, number: int) -> str:
        return self._means.layout.part(self._name, number)

    def _relative(self, number: int) -> bytes:
        return self._means.layout.relative(self._name, number).encode()

    def begin(self, number: int, now: int) -> None:
        """Open a pass over ``number``, unless somebody ordered otherwise."""
        if self._orders.withholds(self._name, number, now):
            return
        means = self._means
        copy = b""
        if means.shadow is not None:
            copy = means.shadow.identity(number)
            if means.shadow.withholds(copy):
                self._agenda.schedule.add(number, now + WAIT_S)
                return
            if means.shadow.is_taken(copy) and self._orders.drop(number):
                return
        try:
            sender, birth = read_info(means.layout.info(number))
            recipients = RecipientFile(self._path(number))
        except OSError:
            if not self._gone(number):
                means.log(Warn(b"trouble opening %b; will try again later" % self._relative(number)))
                self._agenda.schedule.add(number, now + TROUBLE_S)
            return
        except MemoryError:
            self._agenda.schedule.add(number, now)
            raise
        retry = next_retry(birth, now, ROOT_STEP[self._name])
        job = Job(number, sender, birth, retry, now > birth + means.controls.lifetime_s, copy=copy)
        self.current = QueuePass(job, recipients, self._relative(number), means.log)
        self._settling.jobs[number] = job

    def _gone(self, number: int) -> bool:
        """Whether ``number`` has left the queue, or this channel, while it waited."""
        try:
            if sweep.gone(self._means.layout.info(number)):
                return True
            if not sweep.gone(self._path(number)):
                return False
        except OSError:
            return False
        self._messages.channel_empty(self._name, number)
        return True

    def go_on(self, job: Job, offset: int) -> None:
        """Start the delivery to a recipient that had been skipped."""
        job.held -= 1
        fenced = self._means.shadow is not None and self._means.shadow.stops(job.copy)
        if fenced or self._orders.stops(job.number):
            self._settling.settle(job)
            return
        try:
            recipient = recipient_at(self._path(job.number), offset)
        except OSError:
            self._means.log(Warn(b"trouble reading %b; will try again later" % self._relative(job.number)))
            self._settling.settle(job)
            return
        if recipient is not None and self._orders.withholds_recipient(recipient):
            self._settling.settle(job)
            return
        job.not_done -= 1
        if recipient is None:
            self._settling.settle(job)  # done meanwhile
        else:
            self._deliveries.start(job, offset, recipient)

    def next_recipient(self) -> bool:
        """Go on with the current pass; False when there is none."""
        current = self.current
        if current is None:
            return False
        if self._means.shadow is not None and self._means.shadow.stops(current.job.copy):
            self._end_pass(current)
            return True
        found = current.advance(self._orders, self._agenda.shares)
        if found is Nothing.OVER:
            self._end_pass(current)
        elif found is not Nothing.PASSED:
            self._deliveries.start(current.job, found.offset, found.recipient)
        return True

    def _end_pass(self, current: QueuePass) -> None:
        self.current = None
        current.close()
        job = current.job
        if job.only_skipped:
            self._agenda.shares.hold(job.skipped[0][0], job.number)
            self._settling.jobs.pop(job.number, None)
            return
        if job.skipped:
            skipped, job.skipped = job.skipped, []
            self._settling.hold(job, skipped)
        self._settling.settle(job)
