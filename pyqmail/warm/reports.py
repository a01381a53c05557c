"""Descriptor 1 of a spawner: what is to be said, as soon as the pipe takes it (qmail-lspawn(8))."""

import errno
import fcntl
import os

from pyqmail.system.loop import Loop

AGAIN_S = 1.0  # after a report could not be written, for other reasons than that nobody reads


class Reports:
    """Bytes on their way to descriptor 1, in order and never waited for."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._out = bytearray()
        self._writing = True

    @property
    def pending(self) -> bool:
        """Whether something is not written yet."""
        return bool(self._out)

    def open(self) -> None:
        """Make descriptor 1 one that never blocks; without it nothing is said. Raises OSError for another error."""
        try:
            flags = fcntl.fcntl(1, fcntl.F_GETFL)
            fcntl.fcntl(1, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise  # alive and without a voice it would hold every slot for ever
            self._writing = False

    def send(self, data: bytes) -> None:
        """Write ``data`` before the loop waits next."""
        if not self._writing:
            return
        if not self._out:
            self._loop.before_wait(self.write)
        self._out += data

    def write(self) -> None:
        """Write what the pipe takes; a broken pipe ends the reports and not the work."""
        try:
            while self._out:
                del self._out[: os.write(1, self._out)]
        except InterruptedError:
            pass
        except BlockingIOError:
            self._loop.add_writer(1, self.write)
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EBADF):  # a report that is lost holds its slot for ever
                self._loop.remove_writer(1)
                self._loop.call_later(AGAIN_S, self.write)
                return
            self._writing = False
            self._out.clear()
        self._loop.remove_writer(1)
