"""A worker of qmail-queued: reads many submissions at once and commits the complete ones together.

A submission is a connection (answered once; its end before the commit aborts), a message and an envelope descriptor.
Those two are the caller's open files, so they are never switched to non-blocking: pipes are spliced with
SPLICE_F_NONBLOCK, sockets read with MSG_DONTWAIT, and what poll cannot watch is read in a process of its own.
The parent is told when a submission is over. When the parent goes, what is complete is committed, slow ones are
given a moment, and the worker ends.
"""

import errno
import fcntl
import os
import select
import signal
import socket
import time

from pyqmail.exits import QueueExit
from pyqmail.protocol import queued
from pyqmail.spool.enqueue import Draft, QueueFailure, Spool, enqueue
from pyqmail.system import foreign
from pyqmail.system.loop import Loop
from pyqmail.system.process import close_all_but, reset_signals
from pyqmail.warm import wire

LIFETIME_SECONDS = 86400.0  # of a submission: qmail-queue's alarm
INSPECT_SECONDS = 60.0  # from one look at the ages to the next
GRACE_SECONDS = 3.0  # for open submissions once the parent has gone
CHUNK = 1 << 16
CHUNKS_A_TURN = 16  # read from one sender before the others have their turn
BATCH_MAX = 64


class Receipt:
    """One submission that is being read."""

    __slots__ = (
        "child", "connection", "draft", "envelope", "heard", "job", "message", "pipes", "read", "reading", "sockets",
        "started", "submission",
    )  # fmt: skip

    def __init__(self, job: int, submission: int, connection: int, message: int, envelope: int) -> None:
        self.job = job
        self.submission = submission
        self.connection = connection
        self.message = message  # -1 once it has been read
        self.envelope = envelope
        self.pipes = False  # both are, and nothing else
        self.reading = -1  # the descriptor that the loop watches
        self.heard = False  # the loop watches the connection
        self.sockets: set[int] = set()  # which of the two are no pipes
        self.read: list[int] = []  # of those, what has been read
        self.draft: Draft | None = None
        self.child = 0  # the process that reads unwatchable descriptors
        self.started = time.monotonic()


class Worker:
    """Everything that one worker process does."""

    def __init__(self, spool: Spool, jobs: socket.socket) -> None:
        self.spool = spool
        self.jobs = jobs
        jobs.setblocking(False)
        self.loop = Loop()
        self.receipts: dict[int, Receipt] = {}
        self.ready: list[Receipt] = []
        self.leaving = False
        self.private = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # envelope bytes pass through it

    def run(self) -> int:
        """Serve until the parent has gone and nothing is open."""
        self.loop.add_reader(self.jobs.fileno(), self._take_jobs)
        self.loop.call_later(INSPECT_SECONDS, self._inspect)
        while not (self.leaving and not self.receipts):
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
            self._begin(*record)

    def _begin(self, payload: bytes, fds: list[int]) -> None:
        if len(payload) != queued.JOB_SIZE or len(fds) != 3:
            raise ValueError("malformed job")
        job, uid, submission, pipes = queued.parse_job(payload)
        receipt = Receipt(job, submission, *fds)
        receipt.pipes = pipes
        self.receipts[job] = receipt
        for fd in (receipt.message, receipt.envelope):
            if pipes or foreign.is_pipe(fd):
                continue
            if foreign.is_socket(fd):
                receipt.sockets.add(fd)
            else:  # poll cannot watch it
                self._hear(receipt)
                self._read_apart(receipt, uid)
                return
        try:
            if not (readable(receipt.message) and readable(receipt.envelope)):
                raise QueueFailure(QueueExit.READ_ERROR)
            receipt.draft = self.spool.begin(uid, submission)
        except QueueFailure as failure:
            self._finish(receipt, failure.exit_code)
            return
        self._read(receipt)

    def _leave(self) -> None:
        """The parent has gone or is stopping: no new jobs."""
        self.loop.remove_reader(self.jobs.fileno())
        self.leaving = True
        self.loop.call_later(GRACE_SECONDS, self._abandon_all)

    def _abandon_all(self) -> None:
        for receipt in list(self.receipts.values()):
            if receipt not in self.ready:
                self._finish(receipt, QueueExit.CONNECTION_BROKE)

    def _hear(self, receipt: Receipt) -> None:
        """Notice from now on when the client goes."""
        if not receipt.heard:
            receipt.heard = True
            self.loop.add_reader(receipt.connection, lambda: self._hung_up(receipt))

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
                if receipt.message >= 0:
                    self._read_message(receipt, draft)
                elif self._read_envelope(receipt, draft):
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

    def _read_message(self, receipt: Receipt, draft: Draft) -> None:
        if receipt.message in receipt.sockets:
            data = _receive(receipt.message)
            count = len(data)
            self.spool.write_message(draft, data)
        else:
            count = self._splice_message(receipt, draft)
        if count == 0:
            self._watch(receipt, -1)
            if receipt.message not in receipt.sockets:
                os.close(receipt.message)
            else:
                receipt.read.append(receipt.message)
            receipt.message = -1
            self.spool.message_complete(draft)

    def _splice_message(self, receipt: Receipt, draft: Draft) -> int:
        try:
            return os.splice(receipt.message, draft.message, CHUNKS_A_TURN * CHUNK, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EBADF:
                raise QueueFailure(QueueExit.READ_ERROR) from None
            if error.errno != errno.EINVAL:
                raise QueueFailure(QueueExit.WRITE_ERROR) from None
        data = self._through_private_pipe(receipt.message)  # this filesystem does not splice
        self.spool.write_message(draft, data)
        return len(data)

    def _read_envelope(self, receipt: Receipt, draft: Draft) -> bool:
        fd = receipt.envelope
        data = _receive(fd) if fd in receipt.sockets else self._through_private_pipe(fd)
        if not data:
            raise QueueFailure(QueueExit.READ_ERROR)
        return self.spool.feed_envelope(draft, data)

    def _through_private_pipe(self, fd: int) -> bytes:
        """What is in pipe ``fd`` now, empty at its end. Raises BlockingIOError when there is nothing yet."""
        try:
            count = os.splice(fd, self.private[1], CHUNK, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError:
            raise QueueFailure(QueueExit.READ_ERROR) from None
        data = b""
        while len(data) < count:
            data += os.read(self.private[0], count - len(data))
        return data

    def _watch(self, receipt: Receipt, fd: int) -> None:
        if receipt.reading != fd:
            if receipt.reading >= 0:
                self.loop.remove_reader(receipt.reading)
            receipt.reading = fd
            if fd >= 0:
                self.loop.add_reader(fd, lambda: self._read(receipt))

    def _commit(self, batch: list[Receipt]) -> None:
        """Commit what is complete, except for clients that have gone meanwhile."""
        drafts = []
        for receipt in batch:
            if receipt.job not in self.receipts or receipt.draft is None:
                continue
            if _gone(receipt.connection):
                self._hung_up(receipt)
            else:
                drafts.append((receipt, receipt.draft))
        self.spool.commit([draft for _, draft in drafts])
        for receipt, draft in drafts:
            self._finish(receipt, draft.exit_code)

    def _finish(self, receipt: Receipt, exit_code: int) -> None:
        """Answer, give everything back and free the slot; a draft that was not committed leaves the queue."""
        if self.receipts.pop(receipt.job, None) is None:
            return
        self._watch(receipt, -1)
        if receipt.draft is not None and receipt.draft.message >= 0:
            self.spool.failed(receipt.draft, exit_code)
        if receipt.child:
            os.kill(receipt.child, signal.SIGKILL)  # collected when it has ended: that may take as long as its read
            receipt.child = 0
        if receipt.heard:
            self.loop.remove_reader(receipt.connection)
        _answer(receipt.connection, exit_code, receipt.submission)
        fds = [fd for fd in (receipt.message, receipt.envelope, *receipt.read) if fd >= 0]
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, receipt.connection)
        foreign.give_back(connection, fds, lambda: self._free_slot(receipt.job), pipes=receipt.pipes)

    def _free_slot(self, job: int) -> None:
        while True:
            try:
                self.jobs.send(job.to_bytes(8, "little"), socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                room = select.poll()
                room.register(self.jobs, select.POLLOUT)
                room.poll()  # not for long: the parent always reads
            except OSError:
                return  # the parent has gone: nobody counts slots any more

    def _read_apart(self, receipt: Receipt, uid: int) -> None:
        """Read descriptors that may block, or that poll cannot watch, in a process of their own."""
        try:
            receipt.child = os.fork()
        except OSError:
            self._finish(receipt, QueueExit.NO_MEMORY)
            return
        if receipt.child == 0:
            code = QueueExit.BUG
            try:
                close_all_but((1, 2, receipt.message, receipt.envelope))
                reset_signals()
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                code = enqueue(self.spool, uid, receipt.submission, receipt.message, receipt.envelope)
            finally:
                os._exit(code)
        child = receipt.child
        try:
            process = os.pidfd_open(child)
        except OSError:  # no descriptor to watch it by
            self._finish(receipt, QueueExit.NO_MEMORY)
            return
        self.loop.add_reader(process, lambda: self._read_was_apart(receipt, child, process))

    def _read_was_apart(self, receipt: Receipt, child: int, process: int) -> None:
        self.loop.remove_reader(process)
        os.close(process)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not receipt.child:
            return  # it was ended with its client
        receipt.child = 0
        self._finish(receipt, code if code >= 0 else QueueExit.CONNECTION_BROKE)


def _receive(fd: int) -> bytes:
    """What socket ``fd`` has now. Raises BlockingIOError when there is nothing, QueueFailure for a broken one."""
    sock = foreign.borrow(fd)
    try:
        return sock.recv(CHUNK, socket.MSG_DONTWAIT)
    except BlockingIOError:
        raise
    except OSError:
        raise QueueFailure(QueueExit.READ_ERROR) from None
    finally:
        sock.detach()


def readable(fd: int) -> bool:
    """Whether ``fd`` is open for reading: poll would wait for ever on one that is not."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    return not flags & os.O_PATH and flags & os.O_ACCMODE != os.O_WRONLY


def _answer(connection: int, exit_code: int, submission: int) -> None:
    try:
        os.write(connection, queued.format_answer(exit_code & 255, submission))  # the only record on it: never blocks
    except OSError:
        pass  # the client has gone; what is queued stays queued


def _gone(connection: int) -> bool:
    """Whether the client has closed its end, or says something it should not."""
    look = select.poll()
    look.register(connection, select.POLLIN)
    return bool(look.poll(0))


def serve(spool: Spool, jobs: socket.socket) -> int:
    """A worker's life, from its job socket."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file size limit is a write error
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the job socket is what ends a worker
    return Worker(spool, jobs).run()
