"""One channel: its passes, and what becomes of a message in it (qmail-send(8)). send/job.py draws the states.

A pass reads the recipient file of one message and starts a delivery for each recipient not done, as slots become
free.  A message goes back to the schedule when its pass has ended *and* its last delivery has reported.  A failure is
first durable in bounce/N, only then marked done (send/failures.py).

A recipient whose domain or user has its share of deliveries (send/shares.py) is skipped.  If the pass has started
nothing else of that message, the message as a whole waits, and only its number is in memory; otherwise the offsets of
the skipped recipients wait, since those that were tried must not be tried again so soon; what still waits when those
are due is left to their next pass.

A new message to one recipient is *fresh*: it is offered before it has files in info/ and local/ or remote/, and its
todo/N is what a crash would start again from.  Once delivered it leaves the queue without ever having had them;
anything but success waits until they are durable, and is then acted on as for any other message.
"""

from collections.abc import Sequence

from pyqmail.log.events import Warn
from pyqmail.send.agenda import Agenda, Begin, First, Resume
from pyqmail.send.delivery import Deliveries
from pyqmail.send.fresh import FreshMessages
from pyqmail.send.job import Delivery, JobState
from pyqmail.send.means import Means
from pyqmail.send.neighbours import Messages, Orders
from pyqmail.send.passes import Passes
from pyqmail.send.queue_pass import Start
from pyqmail.send.settling import Settling
from pyqmail.send.status import Status
from pyqmail.spool.preprocess import New
from pyqmail.system import files

RECORDS_PER_TURN = 64


class Channel:
    """Joins the agenda, the passes, the deliveries and what they lead to in the queue."""

    def __init__(
        self,
        name: str,
        means: Means,
        messages: Messages,
        orders: Orders,
        status: Status,
        *,
        commands: int,
        reports: int,
    ) -> None:
        self.name = name
        self.deliveries = Deliveries(name, means, status, commands=commands, reports=reports, reported=self._reported)
        self.agenda = Agenda(self.deliveries.shares)
        self.schedule = self.agenda.schedule
        self._means = means
        self._orders = orders
        self._settling = Settling(name, means, messages, orders, self.agenda)
        self._fresh = FreshMessages(name, means, messages, orders, self.agenda, self._settling)
        self._passes = Passes(means, messages, orders, self.agenda, self.deliveries, self._settling)
        self.jobs = self._settling.jobs

    def start(self, limit: int) -> None:
        """Begin to serve with the spawner's ``limit``; ask for a wide one where that would help."""
        self.deliveries.link.start(limit)
        self.deliveries.controls_changed()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way, so that the daemon may exit."""
        return self._settling.idle and not self._fresh.awaited and not self.deliveries.waited_for

    def next_time(self) -> float:
        """When there is something to do for ``step``."""
        if self._means.exiting or not self.deliveries.link.alive:
            return float("inf")
        when = 0 if self._passes.current is not None else self.agenda.next_time()
        patience = self.agenda.patience()
        if when >= patience or not self.deliveries.ready:
            return patience
        return when

    def all_due(self, now: int) -> None:
        """Try all that waits for its next attempt now."""
        self.schedule.all_due(now)
        self._fresh.all_due(now)

    def step(self, now: float) -> None:
        """Start deliveries while slots are free, a bounded number at a time."""
        for first in self.agenda.impatient(now):
            self._fresh.withhold(first.job)
        left = RECORDS_PER_TURN
        while left > 0:
            if self._means.exiting or not self.deliveries.ready:
                return
            records = self._passes.next_recipients() or self._next_step(now)
            if not records:
                return
            left -= records

    def _next_step(self, now: float) -> int:
        """Begin with what the agenda says; how many records that took, 0 when nothing is due."""
        match self.agenda.next(now):
            case First(job, recipient):
                fenced = self._means.shadow is not None and self._means.shadow.stops(job.copy)
                if fenced or self._orders.stops(job.number) or self._orders.withholds_recipient(recipient):
                    self._fresh.withhold(job)
                else:
                    self.deliveries.start(job, (Start(0, recipient),))
            case Resume(job, offset):
                return self._passes.go_on(job, offset)
            case Begin(number):
                self._passes.begin(number, int(now))
            case None:
                return 0
        return 1

    def offer(self, new: New, recipient: bytes) -> bool:
        """Deliver ``new`` to its one recipient as soon as a slot is free; False where it should get its files first."""
        return self.deliveries.link.alive and self._fresh.offer(new, recipient)

    def _reported(self, deliveries: Sequence[Delivery], letter: bytes, text: bytes) -> None:
        if deliveries[0].job.state is JobState.FRESH:
            self._fresh.reported(deliveries[0], letter, text)
        else:
            self._settling.act_on(deliveries, letter, text)

    def save_times(self) -> None:
        """Write when each waiting message is due into its file, for the next start."""
        layout = self._means.layout
        for number, when in self.schedule.items():
            try:
                files.set_times(layout.part(self.name, number), when)
            except OSError:
                name = layout.relative(self.name, number).encode()
                self._means.log(Warn(b"unable to utime %b; message will be retried too soon" % name))

    def at_work(self, number: int) -> bool:
        """Whether ``number`` is being delivered, or waits for a domain or user that has its share of deliveries."""
        return number in self.jobs or number in self.agenda.shares.entries()
