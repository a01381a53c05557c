"""Reading what a client gave, without ever waiting for it and without changing its flags, which the client shares."""

import errno
import fcntl
import os
import socket

from pyqmail.exits import QueueExit
from pyqmail.intake.pulse import Pulse
from pyqmail.intake.receipt import Receipt
from pyqmail.intake.watches import Watches
from pyqmail.spool.draft import Draft, QueueFailure
from pyqmail.spool.enqueue import Spool
from pyqmail.system import foreign

CHUNK = 1 << 16
CHUNKS_A_TURN = 16  # read from one sender before the others have their turn


class Reader:
    """Takes from pipes and sockets what is there now."""

    def __init__(self, spool: Spool, pulse: Pulse, watches: Watches) -> None:
        self.spool = spool
        self._pulse = pulse
        self._watches = watches
        self.private = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # envelope bytes pass through it

    def begin(self, receipt: Receipt, kinds: list[str]) -> Draft:
        """The draft for a submission whose two descriptors are of these ``kinds``. Raises QueueFailure."""
        given = (receipt.handed.message, receipt.handed.envelope)
        receipt.handed.sockets = {fd for fd, kind in zip(given, kinds, strict=True) if kind == foreign.SOCKET}
        if not all(map(_readable, given)):
            raise QueueFailure(QueueExit.READ_ERROR)
        return self.spool.begin(receipt.uid, receipt.submission, receipt.facts)

    def take_turn(self, receipt: Receipt, draft: Draft) -> bool:
        """Read what is there, message, then envelope; whether that is complete now. Raises QueueFailure."""
        try:
            for _ in range(CHUNKS_A_TURN):
                self._pulse.beat()
                if receipt.handed.message >= 0:
                    if not self._read_message(receipt, draft):
                        self._message_ended(receipt, draft)
                elif self._read_envelope(receipt, draft):
                    return True
        except BlockingIOError:
            pass
        return False

    def _message_ended(self, receipt: Receipt, draft: Draft) -> None:
        self._watches.descriptor_no_more(receipt)
        handed = receipt.handed
        if handed.message in handed.sockets:
            handed.read.append(handed.message)
        else:
            os.close(handed.message)
        handed.message = -1
        self.spool.message_complete(draft)

    # Each of these raises BlockingIOError when there is nothing yet.

    def _read_message(self, receipt: Receipt, draft: Draft) -> int:
        """How many bytes have been added to ``draft``, 0 at the end of the message. Raises QueueFailure."""
        if receipt.handed.message not in receipt.handed.sockets:
            return self._splice_message(receipt, draft)
        data = _receive(receipt.handed.message)
        self.spool.write_message(draft, data)
        return len(data)

    def _read_envelope(self, receipt: Receipt, draft: Draft) -> bool:
        """Whether the envelope is complete now. Raises QueueFailure."""
        fd = receipt.handed.envelope
        data = _receive(fd) if fd in receipt.handed.sockets else self._through_private_pipe(fd)
        if not data:
            raise QueueFailure(QueueExit.READ_ERROR)
        return self.spool.feed_envelope(draft, data)

    def _splice_message(self, receipt: Receipt, draft: Draft) -> int:
        try:
            return os.splice(receipt.handed.message, draft.message, CHUNKS_A_TURN * CHUNK, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EBADF:
                raise QueueFailure(QueueExit.READ_ERROR) from None
            if error.errno != errno.EINVAL:
                raise QueueFailure(QueueExit.WRITE_ERROR) from None
        data = self._through_private_pipe(receipt.handed.message)  # this filesystem does not splice
        self.spool.write_message(draft, data)
        return len(data)

    def _through_private_pipe(self, fd: int) -> bytes:
        """What is in pipe ``fd`` now, empty at its end."""
        try:
            count = os.splice(fd, self.private[1], CHUNK, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError:
            raise QueueFailure(QueueExit.READ_ERROR) from None
        data = b""
        try:
            while len(data) < count:
                data += os.read(self.private[0], count - len(data))
        except BaseException:
            self._renew()  # what is left in it would become part of another's envelope
            raise
        return data

    def _renew(self) -> None:
        """Another private pipe; while there is none to be had, every read fails. Raises OSError."""
        old, self.private = self.private, (-1, -1)
        for fd in old:
            os.close(fd)
        self.private = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def _receive(fd: int) -> bytes:
    """What socket ``fd`` has now. Raises BlockingIOError when there is nothing, QueueFailure for a broken one."""
    try:
        sock = foreign.borrow(fd)
        try:
            return sock.recv(CHUNK, socket.MSG_DONTWAIT)
        finally:
            sock.detach()
    except BlockingIOError:
        raise
    except Exception:  # CPython has errors of its own for some families
        raise QueueFailure(QueueExit.READ_ERROR) from None


def _readable(fd: int) -> bool:
    """Whether ``fd`` is open for reading: poll would wait for ever on one that is not."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    return not flags & os.O_PATH and flags & os.O_ACCMODE != os.O_WRONLY
