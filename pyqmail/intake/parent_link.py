"""A worker's end of its job socket: submissions come from the parent, and word goes back of those that are over."""

import errno
import select
import socket

from pyqmail.intake.receipt import Receipt
from pyqmail.protocol import queued
from pyqmail.warm import wire

WANTING = (errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE)  # what says nothing of the parent


class ParentLink:
    """The parent as a worker sees it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
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

    def tell(self, word: int) -> None:
        """Tell the parent that a job is over, or RETIRING."""
        while True:
            try:
                self._socket.send(word.to_bytes(8, "little"), socket.MSG_NOSIGNAL)
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
            self.tell(queued.RETIRING)


def parse_record(payload: bytes, descriptors: list[int]) -> Receipt:
    """The submission that a record brings. Raises ValueError, which is a bug of ours: the parent is no stranger."""
    if len(payload) != queued.JOB_SIZE or len(descriptors) != 1:
        raise ValueError("malformed job")
    job, serial, refuse = queued.parse_job(payload)
    receipt = Receipt(job, serial, descriptors[0])
    receipt.refused = refuse
    receipt.want_ids()
    return receipt
