"""The finished list: messages with no recipient left get their bounce, then end (qmail-send(8))."""

import os
import time
from collections.abc import Callable, Mapping

from pyqmail.formats.bounce_text import bounce_envelope, format_break, format_head
from pyqmail.send.background import Background
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.controls import Controls
from pyqmail.send.log import Line
from pyqmail.spool import sweep
from pyqmail.spool.layout import Layout
from pyqmail.spool.retry import TROUBLE_S, Schedule
from pyqmail.spool.submit import Submission
from pyqmail.system import files

MESSAGES_PER_TURN = 32
_START = b"warning: unable to start qmail-queue, will try later"
_INJECT = b"warning: trouble injecting bounce message, will try later"


class Finisher:
    """Ends finished messages. A bounce is injected in a thread of its own; its message waits for it."""

    def __init__(
        self,
        layout: Layout,
        background: Background,
        cleaner: Cleaner,
        environ: Mapping[bytes, bytes],
        log: Line,
    ) -> None:
        self.schedule = Schedule()
        self._layout = layout
        self._background = background
        self._cleaner = cleaner
        self._environ = environ
        self._log = log
        self._injecting: set[int] = set()

    def step(self, now: float, controls: Controls) -> None:
        """End what is due, a bounded number at a time."""
        for _ in range(MESSAGES_PER_TURN):
            number = self.schedule.pop_due(int(now))
            if number is None:
                return
            if number in self._injecting:
                continue
            try:
                self._finish(number, controls)
            except OSError:
                self._log(b"warning: unable to stat %b; will try again later" % self._info(number))
                self._later(number)

    def _info(self, number: int) -> bytes:
        return self._layout.relative("info", number).encode()

    def _later(self, number: int) -> None:
        self.schedule.add(number, int(time.time()) + TROUBLE_S)

    def _finish(self, number: int, controls: Controls) -> None:
        layout = self._layout
        occupied = (layout.local(number), layout.remote(number), layout.todo(number))
        if not all(sweep.absent(path) for path in occupied) or sweep.absent(layout.info(number)):
            return  # not finished after all, or gone: whoever made it so has it in hand
        if sweep.absent(layout.bounce(number)):
            self._end(number)
            return
        sender = _read_sender(layout.info(number))
        envelope = bounce_envelope(sender, controls.double_bounce_to)
        if envelope is None:
            self._log(b"triple bounce: discarding bounce/%d" % number)
            self._bounced(number)
            return
        self._injecting.add(number)
        environ, log = self._environ, self._log

        def inject() -> Callable[[], None]:
            line, done = _inject(layout, number, sender, envelope, controls, environ)

            def settle() -> None:
                self._injecting.discard(number)
                log(line)
                if done:
                    self._bounced(number)
                else:
                    self._later(number)

            return settle

        self._background.submit(inject)

    def _bounced(self, number: int) -> None:
        try:
            files.unlink(self._layout.bounce(number))
        except OSError:
            self._log(b"warning: unable to unlink bounce/%d" % number)
            self._later(number)
            return
        self._end(number)

    def _end(self, number: int) -> None:
        self._log(b"end msg %d" % number)
        try:
            files.unlink(self._layout.info(number))
        except OSError:
            self._log(b"warning: unable to unlink %b; will try again later" % self._info(number))
            self._later(number)
            return
        self.clean(number)

    def clean(self, number: int) -> None:
        """Have qmail-clean remove the message itself."""

        def answered(done: bool) -> None:
            if not done:
                self._log(b"warning: qmail-clean unable to clean up foop/%d" % number)

        self._cleaner.ask(b"foop", number, answered)


def _read_sender(path: str) -> bytes:
    fd = files.open_read(path)
    try:
        data = b""
        while chunk := os.read(fd, 4096):
            data += chunk
    finally:
        os.close(fd)
    return data[1:].split(b"\0", 1)[0]


def _copy(path: str, submission: Submission) -> None:
    fd = files.open_read(path)
    try:
        while data := os.read(fd, 65536):
            submission.write(data)
    finally:
        os.close(fd)


def _inject(
    layout: Layout,
    number: int,
    sender: bytes,
    envelope: tuple[bytes, bytes],
    controls: Controls,
    environ: Mapping[bytes, bytes],
) -> tuple[bytes, bool]:
    """Queue the bounce of ``number``: the log line, and whether it is queued."""
    bounce_sender, recipient = envelope
    double = not sender
    try:
        submission = Submission.open(layout.home, environ, warm=True)
    except OSError:
        return _START, False
    try:
        bounce_from = controls.bounce_from + b"@" + controls.bounce_host
        head = format_head(int(time.time()), bounce_from, controls.bounce_host, recipient, double=double)
        submission.write(head)
        _copy(layout.bounce(number), submission)
        submission.write(format_break(sender, double=double))
        _copy(layout.mess(number), submission)
    except OSError:
        submission.fail()
    answer = submission.close(bounce_sender, [recipient])
    if answer.status != 0:
        return _INJECT, False
    return b"bounce msg %d qp %d" % (number, answer.number), True
