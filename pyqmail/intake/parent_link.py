"""A worker's end of its job socket: submissions come from the parent, and word goes back of those that are over."""

import errno
import select
import socket

from pyqmail.intake.receipt import Receipt
from pyqmail.protocol import queued
from pyqmail.system.loop import Loop
from pyqmail.warm import wire

TOLD_MAX = 64  # jobs in one record
WANTING = (errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE)  # what says nothing of the parent


class ParentLink:
    """The parent as a worker sees it."""

    def __init__(self, sock: socket.socket, loop: Loop) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._socket = sock
        self._over: list[int] = []  # jobs of which the parent has not been told
        self.gone = False  # it has ended, or sends no more jobs
        self.retiring = False  # it has been asked to send none

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def receive(self) -> tuple[bytes, list[int]] | None:
        """The next record with its descriptors, None where no more will come.

        Raises BlockingIOError where there is none yet, or none can be taken now: it stays where it is.
        """
        try:
            return wire.receive_record(self._socket)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in WANTING:
                raise BlockingIOError from error
            return None

    def over(self, job: int) -> None:
        """A job is over: the parent is told with the others of this turn."""
        if not self._over:
            self._loop.before_wait(self.tell)
        self._over.append(job)

    def tell(self) -> None:
        """Tell the parent of the jobs that are over."""
        while self._over:
            told, self._over = self._over[:TOLD_MAX], self._over[TOLD_MAX:]
            self._send(queued.format_freed(told))

    def _send(self, record: bytes) -> None:
        while True:
            try:
                self._socket.send(record, socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                room = select.poll()
                room.register(self._socket, select.POLLOUT)
                room.poll()  # not for long: the parent always reads
            except OSError:
                return  # the parent has gone: nobody counts slots any more

    def retire(self) -> None:
        """Ask for no more jobs: something here may take for ever."""
        if not self.retiring and not self.gone:
            self.retiring = True
            self.over(queued.RETIRING)
            self.tell()


def parse_record(payload: bytes, descriptors: list[int], *, known: bool) -> Receipt:
    """The submission that a record brings. Where the client is ``known`` to be a program of ours, it is as whom it has
    connected; else it is the real uid that the kernel names. Raises ValueError, which is a bug of ours: the parent is
    no stranger."""
    if len(payload) != queued.JOB_SIZE or len(descriptors) != 1:
        raise ValueError("malformed job")
    job, serial, refuse, uid = queued.parse_job(payload)
    receipt = Receipt(job, serial, descriptors[0])
    receipt.refused = refuse
    if known:
        receipt.uid = uid
    else:
        receipt.want_ids()
    return receipt
