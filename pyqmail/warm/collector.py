"""What a delivery's program says: with its status, or by a pipe, which is read until it has ended."""

import os
from collections.abc import Callable

from pyqmail.system.loop import Loop, Timer
from pyqmail.system.typed import Protocol

Done = Callable[[int | None], None]
Stop = Callable[[], None]
Append = Callable[[bytearray, bytes], None]
READ_SIZE = 16384
OUTPUT_MAX = 16 << 20  # bytes; a program that says more finds its pipe closed: nobody would read that
WATCH_SECONDS = 0.05  # a program that is done by then has its output read when it ends


class NoPipe(OSError):
    """There can be no pipe now."""


class Output(Protocol):
    """Where what a program says goes."""

    def open(self) -> int:
        """The write end of a pipe, once; it passes to whoever runs the program. Raises NoPipe."""

    def hear(self, data: bytes) -> None:
        """The program has said ``data`` by another way."""


class Collector:
    """What a program says: calls ``done(status, output)`` once its status is in and its pipe, if any, has ended."""

    def __init__(self, loop: Loop, append: Append, done: Callable[[int | None, bytes], None]) -> None:
        self._loop = loop
        self._append = append
        self._done = done
        self._stored = bytearray()
        self._status: int | None = None
        self._has_status = False
        self._read = 0  # bytes
        self.stop: Stop | None = None  # ends the program
        self.given_up = False
        self._fd = -1
        self._opened = False
        self._watched = False
        self._timer: Timer | None = None

    def open(self) -> int:
        """The write end of the pipe (`Output.open`)."""
        if self._opened or self.given_up or self._has_status:
            raise NoPipe
        try:
            self._fd, output = _pipe()
        except OSError as error:
            raise NoPipe from error
        self._timer = self._loop.call_later(WATCH_SECONDS, self._watch)
        self._opened = True
        return output

    def hear(self, data: bytes) -> None:
        """Add what came with the status (`Output.hear`)."""
        self._append(self._stored, data)

    def ended(self, status: int | None) -> None:
        """The program is gone with ``status`` (None: killed)."""
        self._status = status
        self._has_status = True
        while self._fd >= 0 and self._readable():
            pass
        if self._fd >= 0:
            self._watch()
        self._finish()

    def give_up(self) -> None:
        """End the program, if it runs, and wait for its output no longer."""
        self.given_up = True
        if self.stop is not None and not self._has_status:
            self.stop()
        if self._fd >= 0:
            self._close()
            self._finish()

    def cancel(self) -> None:
        """Nothing was started, and nobody has the write end: forget the pipe."""
        if self._fd >= 0:
            self._close()

    def _watch(self) -> None:
        """Read what comes from now on, or the end: somebody may keep the pipe after the program."""
        if self._fd < 0 or self._watched:
            return
        self._cancel_timer()
        self._watched = True
        self._loop.add_reader(self._fd, self._heard)

    def _heard(self) -> None:
        self._readable()
        self._finish()

    def _readable(self) -> bool:
        """Take what is in the pipe; false when nothing is."""
        try:
            data = os.read(self._fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        self._read += len(data)
        if data:
            self._append(self._stored, data)
        if not data or self._read > OUTPUT_MAX:
            self._close()
        return True

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _close(self) -> None:
        self._cancel_timer()
        if self._watched:
            self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _finish(self) -> None:
        if self._has_status and self._fd < 0:
            self._done(self._status, bytes(self._stored))


def _pipe() -> tuple[int, int]:
    """A pipe whose read end never blocks. Raises OSError, and nothing is open then."""
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(ends[0], False)
    except OSError:
        for fd in ends:
            os.close(fd)
        raise
    return ends
