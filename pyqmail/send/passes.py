"""The passes of one channel, one after another, and the recipients that they had to skip (qmail-send(8))."""

from pyqmail.log.events import Warn
from pyqmail.send.agenda import Agenda, First, Resume
from pyqmail.send.delivery import Deliveries
from pyqmail.send.job import Job
from pyqmail.send.means import Means
from pyqmail.send.neighbours import Messages, Orders
from pyqmail.send.queue_pass import Nothing, QueuePass, Start
from pyqmail.send.retry import ROOT_STEP, TROUBLE_S, next_retry
from pyqmail.send.settling import Settling
from pyqmail.send.shadow_link import WAIT_S
from pyqmail.send.shares import domain_of
from pyqmail.spool import sweep
from pyqmail.spool.channel import RecipientFile, read_info, recipients_at


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

    def go_on(self, job: Job, offset: int) -> int:
        """Start the delivery to a recipient that had been skipped, and to those with it; how many were looked at."""
        job.held -= 1
        fenced = self._means.shadow is not None and self._means.shadow.stops(job.copy)
        if fenced or self._orders.stops(job.number):
            self._settling.settle(job)
            return 1
        offsets = [offset]
        try:
            recipients = recipients_at(self._path(job.number), offsets)
            if offset in recipients:
                recipients |= self._waiting_with(job, recipients[offset], offsets)
        except OSError:
            self._means.log(Warn(b"trouble reading %b; will try again later" % self._relative(job.number)))
            self._settling.settle(job)
            return len(offsets)
        going = [Start(at, one) for at, one in recipients.items() if not self._orders.withholds_recipient(one)]
        job.not_done -= len(offsets) - len(recipients) + len(going)  # the others are done meanwhile
        if going:
            self._deliveries.start(job, going)
        else:
            self._settling.settle(job)
        return len(offsets)

    def _waiting_with(self, job: Job, recipient: bytes, offsets: list[int]) -> dict[int, bytes]:
        """Those behind ``recipient`` that go with it: they leave its line for ``offsets``. Raises OSError."""
        shares = self._agenda.shares
        key, domain = shares.key(recipient), domain_of(recipient)

        def wanted(entry: int | Resume | First) -> bool:
            return isinstance(entry, Resume) and entry.job is job

        taken = shares.take_with(key, self._deliveries.together(job) - 1, wanted)
        waiting = [entry.offset for entry in taken if isinstance(entry, Resume)]
        job.held -= len(waiting)
        offsets += waiting
        found = recipients_at(self._path(job.number), waiting) if waiting else {}
        for offset in [offset for offset, one in found.items() if domain_of(one) != domain]:  # of the same provider
            shares.hold(key, Resume(job, offset))
            job.held += 1
            offsets.remove(offset)
            del found[offset]
        return found

    def next_recipients(self) -> int:
        """Go on with the current pass; how many recipients that took, 0 when there is none."""
        current = self.current
        if current is None:
            return 0
        if self._means.shadow is not None and self._means.shadow.stops(current.job.copy):
            self._end_pass(current)
            return 1
        found = current.advance(self._orders, self._agenda.shares)
        if found is Nothing.OVER:
            self._end_pass(current)
        elif found is not Nothing.PASSED:
            going = current.neighbours(found, self._deliveries.together(current.job), self._orders)
            self._deliveries.start(current.job, going)
            return len(going)
        return 1

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
