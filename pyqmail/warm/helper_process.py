"""The process of one helper, from its start to its end: what a supervisor holds of it."""

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

from pyqmail.system.loop import Loop
from pyqmail.system.process import HIGHEST, default_signals, fork_child, limit_memory
from pyqmail.warm.last_words import LastWords
from pyqmail.warm.supervised import Helper

FIRST_WAIT_S = 1.0  # before a helper that ended is started again; twice that each time,
LAST_WAIT_S = 60.0  # up to this, and from the start again once one has lived as long
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # the supervisor's own
STANDARD = 3  # descriptors 0, 1 and 2


class BackOff:
    """How long to wait before the next start, by how long the last one lived."""

    def __init__(self) -> None:
        self._wait_s = 0.0

    def after(self, lived_s: float) -> float:
        """Seconds to wait now."""
        again = lived_s < LAST_WAIT_S
        self._wait_s = min(LAST_WAIT_S, self._wait_s * 2) if again and self._wait_s else FIRST_WAIT_S
        return self._wait_s


class HelperProcess:
    """A helper and its process, if there is one. ``ended`` hears of its end: the exit code, None if not ours."""

    def __init__(self, helper: Helper, loop: Loop, ended: Callable[["HelperProcess", int | None], None]) -> None:
        self.helper = helper
        self.pid = 0
        self.waiting = False  # to be started again soon
        self._loop = loop
        self._told_end = ended
        self._ours = False  # our child; else one that an earlier supervisor started
        self._watch = -1  # the descriptor that tells its end
        self._began = 0.0
        self._back_off = BackOff()
        self._words: LastWords | None = None  # of a child of ours

    @property
    def name(self) -> str:
        """Its program."""
        return self.helper.name.decode()

    def start(self, run: Callable[[Sequence[bytes]], int], feed: Callable[[int], object]) -> None:
        """Fork it. ``feed`` gets the descriptor for what it is told, where it is. Raises OSError."""
        ours, theirs = socket.socketpair() if self.helper.told else (None, None)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a child that still has our handlers would lose them
        try:
            words = self._words = LastWords()
            pid = fork_child(lambda: prepare(self.helper, theirs), lambda: words.run(lambda: run([self.helper.name])))
            try:
                self.watch(pid, ours=True)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            if ours is not None:
                feed(ours.fileno())
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for sock in (ours, theirs):
                if sock is not None:
                    sock.close()

    def watch(self, pid: int, *, ours: bool) -> None:
        """``pid`` is the helper from now on. Raises OSError."""
        self._watch = os.pidfd_open(pid)
        self.pid, self._ours, self._began = pid, ours, time.monotonic()
        self._loop.add_reader(self._watch, self._ended)

    def signal(self, signum: int) -> None:
        """Send it a signal, if it runs."""
        if not self.pid:
            return
        try:
            signal.pidfd_send_signal(self._watch, signum)
        except ProcessLookupError:
            return  # it has ended, and will be seen to have

    def last_words(self) -> str:
        """What escaped from the process that has ended, if anything did."""
        words, self._words = self._words, None
        return words.read() if words is not None else ""

    def wait(self) -> float:
        """It is to be started again, in as many seconds as this returns."""
        wait_s = self._back_off.after(time.monotonic() - self._began if self._began else 0.0)
        self._began = 0.0
        self.waiting = True
        return wait_s

    def _ended(self) -> None:
        self._loop.remove_reader(self._watch)
        os.close(self._watch)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) if self._ours else None
        self.pid = 0
        self._told_end(self, code)


def prepare(helper: Helper, feed: socket.socket | None) -> None:
    """In the child: a fresh program's signals and descriptors, and no more memory than it should need."""
    default_signals(*SIGNALS)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if feed is not None:
        os.dup2(feed.fileno(), 0)
    os.closerange(0 if feed is None else 1, HIGHEST)
    while os.open("/dev/null", os.O_RDWR) < STANDARD - 1:
        pass
    limit_memory(helper.memory_bytes)


def how_it_ended(code: int | None, words: str = "") -> str:
    """In words, from the exit code or the negative number of a signal, and from what it said itself."""
    if code is None:
        return "has ended"
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    return f"{how} ({words})" if words else how
