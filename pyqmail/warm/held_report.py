"""What a job's program says, kept until its end and sent with its status: then no pipe is needed.

A job that is about to have a child asks its parent for a pipe first. So each pipe is that of one job with children, and
whoever keeps it, or opens it again, is heard in that job's report and in no other.
"""

import os
from collections.abc import Callable

from pyqmail.system.files import write_all

Ask = Callable[[], int]  # the write end of a new pipe. Raises OSError
SAID_MAX = 4096  # bytes that go with a status; more than a local report may have


class HeldReport:
    """The report of one job after another. Descriptors 1 and 2 are the null device until it is ``open``."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ask: Ask | None = None
        self.is_open = False
        self.message_size: int | None = None  # of the job's message in bytes, where that is known

    def begin(self, ask: Ask) -> None:
        """A new job, which gets a pipe by ``ask``."""
        self._text = bytearray()
        self._ask = ask
        self.is_open = False

    def say(self, text: bytes) -> None:
        """Add ``text``; what is too long for the status goes through a pipe, or nowhere without one."""
        if not self.is_open:
            self._text += text
            if len(self._text) <= SAID_MAX:
                return
            text = b""
        try:
            self.open()
            write_all(1, text)
        except OSError:
            return

    def open(self) -> None:
        """Let a child have the descriptors that a program has: 0 is inherited, 1 and 2 are a pipe. Raises OSError."""
        if self.is_open:
            return
        if self._ask is None:
            raise OSError("no job")
        fd = self._ask()
        self.is_open = True
        try:
            for target in (1, 2):
                os.dup2(fd, target)
        finally:
            os.close(fd)
        os.set_inheritable(0, True)
        text, self._text = self._text, bytearray()
        if text:
            write_all(1, text)

    def end(self) -> bytes:
        """What goes with the status."""
        return bytes(self._text[:SAID_MAX])
