"""The supervisor: the process that qmail-start leaves behind to start and replace all helpers (qmail-start(8)).

It stays what it was started as, root; it reads nothing but one byte from qmail-send, and ends when neither a helper nor
qmail-send needs it, on TERM, or when the queue of its home is gone. Of one home there is one: once qmail-send serves
(and so holds its lock) the supervisor of an earlier qmail-start is replaced (warm/succession).
"""

import os
import signal
import socket
from collections.abc import Callable, Sequence

from pyqmail.protocol import supervision
from pyqmail.system.loop import Loop
from pyqmail.system.process import set_title
from pyqmail.warm.helper_process import SIGNALS, HelperProcess, how_it_ended
from pyqmail.warm.succession import TITLE, Succession
from pyqmail.warm.supervised import HELPERS, Helper, answers

LOOK_S = 5.0  # from one look whether the home is still there to the next


class Supervisor:
    """One loop: ends of helpers, the end of qmail-send, signals."""

    def __init__(
        self, home: str, queue: str, run: Callable[[Sequence[bytes]], int], wanted: Sequence[Helper], link: int
    ) -> None:
        """``link`` is the descriptor that leads to qmail-send, -1 without one."""
        self._home = home
        self._queue = queue
        self._queue_is = os.stat(queue)
        self._run = run
        self._loop = Loop()
        self._helpers = [HelperProcess(helper, self._loop, self._ended) for helper in wanted]
        self._succession = Succession(home, queue, self._loop, self._helpers, self._restart, self._again)
        self._link: socket.socket | None = socket.socket(fileno=link) if link >= 0 else None
        self._served = False  # qmail-send said that it is there
        self._ending = False
        self._left = False  # a successor has our helpers

    def run(self, ready: int) -> int:
        """Serve; a byte goes to ``ready`` once what outlives qmail-send is started. Raises OSError before that."""
        for signum, act in ((signal.SIGTERM, self._end), (signal.SIGUSR1, self._leave)):
            self._loop.add_signal(signum, act)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        set_title(f"{TITLE} {self._home}")
        for process in self._helpers:
            if process.helper.outlives and not answers(self._home, process.helper):
                process.start(self._run, lambda fd: None)
        os.write(ready, b"+")
        os.close(ready)
        if self._link is None:
            self._succession.begin()
        else:
            self._loop.add_reader(self._link.fileno(), self._hear)
        self._look()
        while not self._left and self._needed():
            self._loop.run_once()
        return 0

    def _needed(self) -> bool:
        if any(process.pid or process.waiting for process in self._helpers):
            return True
        return not self._ending and (self._succession.going_on or self._link is not None)

    # what we are told

    def _hear(self) -> None:
        """qmail-send serves, or has ended."""
        assert self._link is not None
        try:
            record = self._link.recv(supervision.RECORD_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            record = b""
        if not record:
            self._part()
        elif not self._served:
            self._served = True
            self._succession.begin()
            for process in self._helpers:
                if not process.helper.outlives:
                    self._restart(process)

    def _part(self) -> None:
        """qmail-send has ended, and with it whatever does not outlive it."""
        assert self._link is not None
        self._loop.remove_reader(self._link.fileno())
        self._link.close()
        self._link = None
        for process in self._helpers:
            if not process.helper.outlives:
                process.waiting = False
                if not process.helper.told:  # the others see the end of what they are told
                    process.signal(signal.SIGTERM)

    def _end(self) -> None:
        if not self._ending:
            self._tell(supervision.ENDS)
        self._ending = True
        self._succession.give_up()
        for process in self._helpers:
            process.waiting = False
            process.signal(signal.SIGTERM)

    def _leave(self) -> None:
        self._left = True

    def _look(self) -> None:
        """End where the queue is gone, or is another one under the same name."""
        try:
            gone = not os.path.samestat(self._queue_is, os.stat(self._queue))
        except FileNotFoundError:
            gone = True
        except OSError:
            gone = False
        if gone and not self._ending:
            self._end()
        self._loop.call_later(LOOK_S, self._look)

    # missing and starting again

    def _ended(self, process: HelperProcess, code: int | None) -> None:
        """A helper has ended: in order, after qmail-send, or another one takes its place."""
        if self._link is not None:
            self._hear()  # of qmail-send's end, if that is why
        words = process.last_words()
        in_order = self._link is None and (code == 0 or not process.helper.outlives)
        if not self._ending and not in_order:
            self._again(process, how_it_ended(code, words))

    def _again(self, process: HelperProcess, why: str) -> None:
        """Start it again after a while, and say so."""
        wait_s = process.wait()
        self._alert(f"{process.name} {why}: {process.helper.loss}; it is started again in {wait_s:.0f} s")
        self._loop.call_later(wait_s, lambda: self._restart(process) if process.waiting else None)

    def _restart(self, process: HelperProcess) -> None:
        process.waiting = False
        if self._ending or process.pid:
            return
        feed = supervision.format_feed(process.helper.name)
        try:
            if process.helper.outlives and answers(self._home, process.helper):
                return  # somebody else's by now
            process.start(self._run, lambda fd: self._tell(feed, fd))
        except OSError as error:
            self._again(process, f"cannot be started ({error.strerror})")

    # words

    def _alert(self, text: str) -> None:
        """A line in the log of qmail-send; in that of the machine where there is no qmail-send."""
        if not self._tell(supervision.format_alert(text.encode())):
            import syslog

            syslog.openlog(TITLE, 0, syslog.LOG_MAIL)
            syslog.syslog(syslog.LOG_ALERT, "alert: " + text)

    def _tell(self, record: bytes, fd: int | None = None) -> bool:
        if self._link is None:
            return False
        try:
            socket.send_fds(self._link, [record], [] if fd is None else [fd], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True


def wanted_helpers(home: str, known: Callable[[bytes], bool], *, told: bool) -> list[Helper]:
    """The helpers that ``home`` is to have; those that qmail-send must tell something only where it can."""
    return [
        helper for helper in HELPERS if known(helper.name) and helper.configured(home) and (told or helper.outlives)
    ]
