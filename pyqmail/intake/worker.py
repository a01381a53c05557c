"""A worker of qmail-queued: reads many submissions at once and commits the complete ones together.

A submission comes as a connection, from which the worker takes the request: who the client is, and two descriptors. The
connection is answered once; its end before the commit aborts. The two are the client's open files, so they are never
switched to non-blocking: pipes are spliced with SPLICE_F_NONBLOCK and sockets read with MSG_DONTWAIT.

A shared worker serves our own warm programs, whose descriptors are pipes that these made: anything else it leaves as it
is, untouched, and asks to be replaced. A worker for one uid alone takes whatever that uid has; what poll cannot watch
is read in a thread, and what waits for ever keeps nobody else waiting: the parent replaces the worker.

The parent is told when a submission is over. When the parent goes, what is complete is committed, slow ones are
given a moment, and the worker ends.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Callable

from pyqmail.exits import QueueExit
from pyqmail.intake.aside import Aside
from pyqmail.intake.pulse import BUSY, DISK, WAITING, Pulse
from pyqmail.intake.reading import CHUNKS_A_TURN, Reader, readable
from pyqmail.intake.receipt import Receipt
from pyqmail.log.bugs import tell_bug
from pyqmail.protocol import queued
from pyqmail.spool.draft import Draft, QueueFailure
from pyqmail.spool.enqueue import Spool, enqueue
from pyqmail.system import foreign
from pyqmail.system.loop import Loop
from pyqmail.warm import wire

LIFETIME_SECONDS = 86400.0  # of a submission: qmail-queue's alarm
INSPECT_SECONDS = 60.0  # from one look at the ages to the next
REQUEST_SECONDS = 30.0  # for the request to follow the connection
GRACE_SECONDS = 3.0  # for open submissions once the parent has gone
CLOSE_SECONDS = 5.0  # for closing what a client gave, before the worker asks to be replaced
BATCH_MAX = 64
READY = b"ready"  # first word to the parent: nothing that the parent has open is open here


class Worker:
    """Everything that one worker process does; ``alone`` for one uid, else shared by our own programs."""

    def __init__(self, spool: Spool, jobs: socket.socket, pulse: Pulse, *, alone: bool) -> None:
        self.spool = spool
        self.jobs = jobs
        jobs.setblocking(False)
        self.pulse = pulse
        self.alone = alone
        self.loop = Loop()
        self.aside = Aside(self.loop)
        self.receipts: dict[int, Receipt] = {}
        self.ready: list[Receipt] = []
        self.leaving = self.retiring = False
        self.untouched: list[int] = []  # what a shared worker must not even close
        self.reader = Reader(spool)

    def run(self) -> int:
        """Serve until the parent has gone and nothing is open."""
        self.loop.add_reader(self.jobs.fileno(), self._take_jobs)
        self.loop.call_later(INSPECT_SECONDS, self._inspect)
        while not self.leaving or any(not receipt.gone for receipt in self.receipts.values()):
            self.pulse.show(WAITING)
            self.loop.run_once()
            while self.ready:
                batch, self.ready = self.ready[:BATCH_MAX], self.ready[BATCH_MAX:]
                self._commit(batch)
        return 0

    def _take_jobs(self) -> None:
        """All jobs that wait, so that what came during a commit makes the next batch."""
        for _ in range(BATCH_MAX):
            try:
                record = wire.receive_record(self.jobs)
            except BlockingIOError:
                return
            except OSError:
                record = None
            if record is None:
                self._leave()
                return
            self.pulse.took()
            payload, fds = record
            if len(payload) != queued.JOB_SIZE or len(fds) != 1:
                raise ValueError("malformed job")
            job, serial, refuse = queued.parse_job(payload)
            receipt = self.receipts[job] = Receipt(job, serial, fds[0])
            receipt.refused = refuse
            self._safely(receipt, self._request)

    def _safely(self, receipt: Receipt, deed: Callable[[Receipt], None]) -> None:
        """Do ``deed`` for one submission; whatever nobody expected ends that submission, and the log has it."""
        self.pulse.show(BUSY)
        try:
            deed(receipt)
        except Exception as error:
            tell_bug("qmail-queue", error)
            self._finish(receipt, QueueExit.BUG)

    # the request

    def _request(self, receipt: Receipt) -> None:
        """Take the request: it has usually come with the connection."""
        if receipt.refused:
            self._finish(receipt, receipt.refused)
            return
        try:
            known = receipt.receive()
        except BlockingIOError:
            self._await_request(receipt)
            return
        except OSError:
            self._finish(receipt, QueueExit.CONNECTION_BROKE)
            return
        self._deaf(receipt)
        if not known:
            self._finish(receipt, QueueExit.BUG)
        elif not receipt.submission:
            self._finish(receipt, QueueExit.NO_PID_FILE)  # no serial could be had
        else:
            self._begin(receipt)

    def _await_request(self, receipt: Receipt) -> None:
        if receipt.timer is None:
            receipt.timer = self.loop.call_later(
                REQUEST_SECONDS, lambda: self._safely(receipt, lambda late: self._finish(late, QueueExit.READ_ERROR))
            )
            receipt.heard = True
            self.loop.add_reader(receipt.connection.fileno(), lambda: self._safely(receipt, self._request))

    def _begin(self, receipt: Receipt) -> None:
        """Start to read both descriptors, each in the way of its kind."""
        kinds = [foreign.kind(fd) for fd in (receipt.message, receipt.envelope)]
        if not self.alone and kinds != [foreign.PIPE, foreign.PIPE]:
            self._finish(receipt, QueueExit.BUG)
            return
        if not all(kinds):  # poll cannot watch it
            self._hear(receipt)
            self._read_apart(receipt)
            return
        receipt.sockets = {
            fd for fd, kind in zip((receipt.message, receipt.envelope), kinds, strict=True) if kind == foreign.SOCKET
        }
        try:
            if not (readable(receipt.message) and readable(receipt.envelope)):
                raise QueueFailure(QueueExit.READ_ERROR)
            receipt.draft = self.spool.begin(receipt.uid, receipt.submission)
        except QueueFailure as failure:
            self._finish(receipt, failure.exit_code)
            return
        self._read(receipt)

    # the end, of one or of all

    def _leave(self) -> None:
        """The parent has gone or sends no more jobs."""
        self.loop.remove_reader(self.jobs.fileno())
        self.leaving = True
        if not self.retiring:
            self.loop.call_later(GRACE_SECONDS, self._abandon_all)

    def _retire(self) -> None:
        """Ask for no more jobs: something here may take for ever."""
        if not self.retiring and not self.leaving:
            self.retiring = True
            self._tell(queued.RETIRING)

    def _abandon_all(self) -> None:
        for receipt in list(self.receipts.values()):
            if receipt not in self.ready:
                self._finish(receipt, QueueExit.CONNECTION_BROKE)

    def _hear(self, receipt: Receipt) -> None:
        """Notice from now on when the client goes."""
        if not receipt.heard:
            receipt.heard = True
            self.loop.add_reader(receipt.connection.fileno(), lambda: self._safely(receipt, self._hung_up))

    def _deaf(self, receipt: Receipt) -> None:
        if receipt.timer is not None:
            receipt.timer.cancel()
            receipt.timer = None
        if receipt.heard:
            receipt.heard = False
            self.loop.remove_reader(receipt.connection.fileno())

    def _hung_up(self, receipt: Receipt) -> None:
        """The client has gone, or says something it should not: nothing of it is committed."""
        self._finish(receipt, QueueExit.CONNECTION_BROKE)

    def _inspect(self) -> None:
        limit = time.monotonic() - LIFETIME_SECONDS
        for receipt in list(self.receipts.values()):
            if receipt.started <= limit and receipt not in self.ready:
                self._finish(receipt, QueueExit.TIMEOUT)
        self.loop.call_later(INSPECT_SECONDS, self._inspect)

    def _read(self, receipt: Receipt) -> None:
        """Read what is there: the message to its end, then the envelope to its final NUL."""
        draft = receipt.draft
        assert draft is not None
        try:
            for _ in range(CHUNKS_A_TURN):
                self.pulse.beat()
                if receipt.message >= 0:
                    if not self.reader.read_message(receipt, draft):
                        self._message_ended(receipt, draft)
                elif self.reader.read_envelope(receipt, draft):
                    self._watch(receipt, -1)
                    self.ready.append(receipt)
                    return
        except BlockingIOError:
            pass
        except QueueFailure as failure:
            self._finish(receipt, failure.exit_code)
            return
        self._watch(receipt, receipt.message if receipt.message >= 0 else receipt.envelope)
        self._hear(receipt)

    def _message_ended(self, receipt: Receipt, draft: Draft) -> None:
        self._watch(receipt, -1)
        if receipt.message in receipt.sockets:
            receipt.read.append(receipt.message)
        else:
            os.close(receipt.message)
        receipt.message = -1
        self.spool.message_complete(draft)

    def _watch(self, receipt: Receipt, fd: int) -> None:
        if receipt.reading != fd:
            if receipt.reading >= 0:
                self.loop.remove_reader(receipt.reading)
            receipt.reading = fd
            if fd >= 0:
                self.loop.add_reader(fd, lambda: self._safely(receipt, self._read))

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
            self._finish(receipt, draft.exit_code)

    def _finish(self, receipt: Receipt, exit_code: int) -> None:
        """Answer, give everything back and free the slot; a draft that was not committed leaves the queue."""
        if receipt.job not in self.receipts:
            return
        self._watch(receipt, -1)
        self._deaf(receipt)
        receipt.answer(exit_code)
        if receipt.apart:  # its descriptors are in use, and nobody knows for how long
            receipt.gone = True
            self._retire()
            return
        del self.receipts[receipt.job]
        if receipt.draft is not None and receipt.draft.message >= 0:
            self.spool.failed(receipt.draft, exit_code)
        if self.alone:
            self._give_back(receipt)
        else:
            self._give_back_pipes(receipt)

    def _give_back_pipes(self, receipt: Receipt) -> None:
        """In a shared worker: close pipes only, which our own programs have made."""
        for fd in receipt.descriptors():
            if receipt.draft is not None or foreign.kind(fd) == foreign.PIPE:
                os.close(fd)
            else:
                self.untouched.append(fd)
                self._retire()
        receipt.connection.close()
        self._tell(receipt.job)

    def _give_back(self, receipt: Receipt) -> None:
        """In a worker for one uid: close what is sure at once, the rest beside the loop, with what came unasked."""
        odd = []
        for fd in receipt.descriptors():
            if foreign.kind(fd) == foreign.PIPE:
                os.close(fd)
            else:
                odd.append(fd)
        unasked = foreign.shut(receipt.connection)
        if not odd and unasked is None:
            receipt.connection.close()
            self._tell(receipt.job)
            return
        late = self.loop.call_later(CLOSE_SECONDS, self._retire)

        def closed() -> None:
            late.cancel()
            self._tell(receipt.job)

        try:
            self.aside.do(lambda: receipt.close_slowly(odd, unasked), closed)
        except (OSError, RuntimeError):
            receipt.close_slowly(odd, unasked)
            closed()

    def _tell(self, word: int) -> None:
        """Tell the parent that a job is over, or RETIRING."""
        while True:
            try:
                self.jobs.send(word.to_bytes(8, "little"), socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                room = select.poll()
                room.register(self.jobs, select.POLLOUT)
                room.poll()  # not for long: the parent always reads
            except OSError:
                return  # the parent has gone: nobody counts slots any more

    def _read_apart(self, receipt: Receipt) -> None:
        """Read descriptors that may block, or that poll cannot watch, beside the loop."""
        receipt.apart = True
        codes = [int(QueueExit.BUG)]

        def read() -> None:
            codes[0] = enqueue(
                self.spool,
                receipt.uid,
                receipt.submission,
                receipt.message,
                receipt.envelope,
                lambda: not receipt.gone,
            )

        def over() -> None:
            receipt.apart = False
            self._finish(receipt, codes[0])

        try:
            self.aside.do(read, over)
        except (OSError, RuntimeError):
            codes[0] = QueueExit.NO_MEMORY
            over()


def serve(spool: Spool, jobs: socket.socket, pulse: Pulse, *, alone: bool) -> int:
    """A worker's life, from its job socket."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file size limit is a write error
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the job socket is what ends a worker
    jobs.send(READY, socket.MSG_NOSIGNAL)
    return Worker(spool, jobs, pulse, alone=alone).run()
