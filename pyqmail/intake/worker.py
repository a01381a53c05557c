"""A worker of qmail-queued: reads many submissions at once and commits the complete ones together.

A submission comes as a connection, which the parent has sent or a shared worker has accepted (intake/acceptance). From
it the worker takes the request: who the client is, and a small message with its envelope, or two descriptors. The
connection is answered once; its end before the commit aborts. The two are the client's open files, so they are never
switched to non-blocking: pipes are spliced with SPLICE_F_NONBLOCK and sockets read with MSG_DONTWAIT.

A shared worker serves our own warm programs, whose descriptors are pipes that these made: anything else it leaves as it
is, untouched, and asks to be replaced. A worker for one uid alone takes whatever that uid has; what poll cannot watch
is read in a thread, and what waits for ever keeps nobody else waiting: the parent replaces the worker.

The parent is told when a submission that it has sent is over. When the parent goes, what is complete is committed, slow
ones are given a moment, and the worker ends.
"""

import signal
import socket
import time

from pyqmail.exits import QueueExit
from pyqmail.intake.acceptance import Acceptance, OwnDoor
from pyqmail.intake.aside import Aside
from pyqmail.intake.giving_back import GivingBack
from pyqmail.intake.parent_link import ParentLink, parse_record
from pyqmail.intake.pulse import BUSY, DISK, WAITING, Pulse
from pyqmail.intake.reading import Reader
from pyqmail.intake.reading_apart import read_apart
from pyqmail.intake.receipt import Receipt
from pyqmail.intake.watches import Deed, Watches
from pyqmail.log.bugs import tell_bug
from pyqmail.protocol import queued
from pyqmail.spool.draft import Draft, QueueFailure
from pyqmail.spool.enqueue import Spool
from pyqmail.system import foreign
from pyqmail.system.loop import Loop
from pyqmail.system.process import ignore_signals

LIFETIME_SECONDS = 86400.0  # of a submission: qmail-queue's alarm
INSPECT_SECONDS = 60.0  # from one look at the ages to the next
GRACE_SECONDS = 3.0  # for open submissions once the parent has gone
BATCH_MAX = 64
READY = b"ready"  # first word to the parent: nothing that the parent has open is open here


class Worker:
    """Everything that one worker process does; ``alone`` for one uid, else shared by our own programs."""

    def __init__(
        self, spool: Spool, jobs: socket.socket, pulse: Pulse, *, alone: bool, door: OwnDoor | None = None
    ) -> None:
        self.spool = spool
        self.pulse = pulse
        self.alone = alone
        self.loop = Loop()
        self.parent = ParentLink(jobs, self.loop)
        self.aside = Aside(self.loop)
        self.watches = Watches(self.loop, self._safely)
        self.reader = Reader(spool, pulse, self.watches)
        self.giving_back = GivingBack(self.loop, self.aside, self.parent, self._over)
        self.acceptance = None if door is None else Acceptance(self.loop, self.parent, pulse, door, self._take)
        self.receipts: dict[int, Receipt] = {}
        self.ready: list[Receipt] = []

    def run(self) -> int:
        """Serve until the parent has gone and nothing is open."""
        self.loop.add_reader(self.parent.fileno(), self._take_jobs)
        self.loop.call_later(INSPECT_SECONDS, self._inspect)
        while not self.parent.gone or any(not receipt.gone for receipt in self.receipts.values()):
            self.pulse.show(WAITING)
            self.loop.run_once()
            while self.ready:
                batch, self.ready = self.ready[:BATCH_MAX], self.ready[BATCH_MAX:]
                self._commit(batch)
            if self.acceptance is not None:
                self.acceptance.settle()
        return 0

    def _take_jobs(self) -> None:
        """All jobs that wait, so that what came during a commit makes the next batch."""
        for _ in range(BATCH_MAX):
            try:
                record = self.parent.receive()
            except BlockingIOError:
                return
            if record is None:
                self._leave()
                return
            self.pulse.took()
            if self.acceptance is not None and len(record[0]) == queued.LEASE_SIZE:
                self.acceptance.obey(queued.parse_lease(record[0]))
                continue
            self._take(parse_record(*record, known=not self.alone))

    def _take(self, receipt: Receipt) -> None:
        """A submission, from the parent or accepted here."""
        self.receipts[receipt.job] = receipt
        self._safely(receipt, self._request)

    def _over(self, job: int) -> None:
        """Nothing of a submission is open any more."""
        if job > 0:
            self.parent.over(job)
        elif self.acceptance is not None:
            self.acceptance.left()

    def _safely(self, receipt: Receipt, deed: Deed) -> None:
        """Do ``deed`` for one submission; whatever nobody expected ends that submission, and the log has it."""
        self.pulse.show(BUSY)
        try:
            deed(receipt)
        except Exception as error:
            tell_bug("qmail-queue", error)
            self._finish(receipt, QueueExit.BUG)

    def _request(self, receipt: Receipt) -> None:
        """Take the request: it has usually come with the connection."""
        try:
            wrong = receipt.request()
        except BlockingIOError:
            self.watches.request(receipt, self._request, lambda late: self._finish(late, QueueExit.READ_ERROR))
            return
        self.watches.connection_no_more(receipt)
        if wrong:
            self._finish(receipt, wrong)
        elif receipt.whole is not None:
            self._take_whole(receipt, *receipt.whole)
        else:
            self._begin(receipt)

    def _take_whole(self, receipt: Receipt, message: bytes, envelope: bytes) -> None:
        """A submission that came with its request."""
        receipt.whole = None
        try:
            receipt.draft = self.spool.begin(receipt.uid, receipt.submission, receipt.facts, message)
            self.spool.message_complete(receipt.draft)
            if not self.spool.feed_envelope(receipt.draft, envelope):
                raise QueueFailure(QueueExit.READ_ERROR)
        except QueueFailure as failure:
            self._finish(receipt, failure.exit_code)
            return
        self.ready.append(receipt)

    def _begin(self, receipt: Receipt) -> None:
        """Start to read both descriptors, each in the way of its kind."""
        kinds = [foreign.kind(fd) for fd in (receipt.handed.message, receipt.handed.envelope)]
        if not self.alone and kinds != [foreign.PIPE, foreign.PIPE]:
            self._finish(receipt, QueueExit.BUG)
            return
        if not all(kinds):  # poll cannot watch it
            self.watches.connection(receipt, self._hung_up)
            read_apart(self.aside, self.spool, receipt, self._finish)
            return
        try:
            receipt.draft = self.reader.begin(receipt, kinds)
        except QueueFailure as failure:
            self._finish(receipt, failure.exit_code)
            return
        self._read(receipt)

    def _read(self, receipt: Receipt) -> None:
        """Read what is there, and then wait for more or for the commit."""
        assert receipt.draft is not None
        try:
            complete = self.reader.take_turn(receipt, receipt.draft)
        except QueueFailure as failure:
            self._finish(receipt, failure.exit_code)
            return
        if complete:
            self.watches.descriptor_no_more(receipt)
            self.ready.append(receipt)
            return
        waits_for = receipt.handed.message if receipt.handed.message >= 0 else receipt.handed.envelope
        self.watches.descriptor(receipt, waits_for, self._read)
        self.watches.connection(receipt, self._hung_up)

    def _commit(self, batch: list[Receipt]) -> None:
        """Commit what is complete, except for clients that have gone meanwhile."""
        drafts = []
        for receipt in batch:
            if receipt.job not in self.receipts or receipt.draft is None:
                continue
            if receipt.hung_up():
                self._hung_up(receipt)
            else:
                drafts.append((receipt, receipt.draft))
        self.pulse.show(DISK)
        self.spool.commit([draft for _, draft in drafts])
        self.pulse.show(BUSY)
        for receipt, draft in drafts:
            receipt.answer(draft.exit_code)
        for receipt, draft in drafts:
            self._finish(receipt, draft.exit_code)

    def _finish(self, receipt: Receipt, exit_code: int) -> None:
        """Answer, unless that is done; give all back, and free the slot. What was not committed leaves the queue."""
        if receipt.job not in self.receipts:
            return
        self.watches.descriptor_no_more(receipt)
        self.watches.connection_no_more(receipt)
        receipt.answer(exit_code)
        if receipt.apart:  # its descriptors are in use, and nobody knows for how long
            receipt.gone = True
            self.parent.retire()
            return
        del self.receipts[receipt.job]
        if receipt.draft is not None:
            self._put_down(receipt.draft, exit_code)
        if self.alone:
            self.giving_back.everything(receipt)
        else:
            self.giving_back.pipes(receipt)

    def _put_down(self, draft: Draft, exit_code: int) -> None:
        if draft.exit_code == QueueExit.DONE:
            self.spool.close(draft)
        elif draft.message >= 0:
            self.spool.failed(draft, exit_code)

    def _hung_up(self, receipt: Receipt) -> None:
        """The client has gone, or says something it should not: nothing of it is committed."""
        self._finish(receipt, QueueExit.CONNECTION_BROKE)

    def _inspect(self) -> None:
        limit = time.monotonic() - LIFETIME_SECONDS
        for receipt in list(self.receipts.values()):
            if receipt.started <= limit and receipt not in self.ready:
                self._finish(receipt, QueueExit.TIMEOUT)
        self.loop.call_later(INSPECT_SECONDS, self._inspect)

    def _leave(self) -> None:
        """The parent has gone or sends no more jobs."""
        self.loop.remove_reader(self.parent.fileno())
        self.parent.gone = True
        if not self.parent.retiring:
            self.loop.call_later(GRACE_SECONDS, self._abandon_all)

    def _abandon_all(self) -> None:
        for receipt in list(self.receipts.values()):
            if receipt not in self.ready:
                self._finish(receipt, QueueExit.CONNECTION_BROKE)


def serve(spool: Spool, jobs: socket.socket, pulse: Pulse, *, alone: bool, door: OwnDoor | None = None) -> int:
    """A worker's life, from its job socket; a shared one may have a place at the ``door``, before its first word."""
    ignore_signals(signal.SIGPIPE, signal.SIGXFSZ)  # a file size limit is a write error
    ignore_signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the end of the job socket is what ends a worker
    made = Worker(spool, jobs, pulse, alone=alone, door=door)
    jobs.send(READY, socket.MSG_NOSIGNAL)
    return made.run()
