"""Messages that are delivered straight from todo/, before they have files of their own (qmail-send(8))."""

from pyqmail.protocol import spawn
from pyqmail.send.agenda import Agenda
from pyqmail.send.job import Delivery, Job
from pyqmail.send.means import Means
from pyqmail.send.neighbours import Messages, Orders
from pyqmail.send.retry import ROOT_STEP, next_retry
from pyqmail.send.settling import Settling
from pyqmail.spool.preprocess import New


class FreshMessages:
    """Those of one channel. ``awaited``: those with a report that waits for their files, by number."""

    def __init__(
        self, name: str, means: Means, messages: Messages, orders: Orders, agenda: Agenda, settling: Settling
    ) -> None:
        self.awaited: dict[int, Job] = {}
        self._name = name
        self._means = means
        self._messages = messages
        self._orders = orders
        self._agenda = agenda
        self._settling = settling

    def offer(self, new: New, recipient: bytes) -> bool:
        """Deliver ``new`` to its one recipient as soon as a slot is free; False where it should get its files first."""
        if self._orders.withholds_recipient(recipient):
            return False
        retry = next_retry(int(new.born), int(new.born), ROOT_STEP[self._name])
        dying = self._means.controls.lifetime_s < 0
        job = Job(
            new.number, new.todo.sender, int(new.born), retry, dying, at_end=True, passing=False, fresh=new,
            copy=new.todo.shadow,
        )  # fmt: skip
        return self._agenda.offer(job, recipient, self._means.clock())

    def withhold(self, job: Job) -> None:
        """Something stands in its way since it was offered: let it wait like any other message."""
        assert job.fresh is not None
        job.overdue = True

        def written(done: bool) -> None:
            if done:
                self._agenda.schedule.add(job.number, int(self._means.clock()))

        self._messages.fresh_to_be_written(job.fresh, written)

    def reported(self, delivery: Delivery, letter: bytes, text: bytes) -> None:
        """The delivery of a fresh message has ended: without success it needs its files before that is acted on."""
        job = delivery.job
        assert job.fresh is not None
        if letter == spawn.SUCCESS:
            if self._means.shadow is not None:
                self._means.shadow.ended(job.copy)
            self._messages.fresh_delivered(job.number)
            return
        new, job.fresh = job.fresh, None
        self.awaited[job.number] = job

        def written(done: bool) -> None:
            del self.awaited[job.number]
            if done:
                self._settling.jobs[job.number] = job
                self._settling.act_on((delivery,), letter, text)

        self._messages.fresh_to_be_written(new, written)

    def all_due(self, now: int) -> None:
        """What has been deferred, and gets its files just now, is due when it has them."""
        for job in self.awaited.values():
            job.retry = min(job.retry, now)
