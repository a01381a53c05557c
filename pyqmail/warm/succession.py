"""How a supervisor takes over from the one before it (qmail-start(8)).

earlier one        what it gets     its qmail-queued
the same build     USR1: ends       goes on, and is watched by the new one
another build      TERM             ends, and the new one starts its own
dead, its qmail-queued left         the same, by the build of that
"""

import os
import signal
import time
from collections.abc import Callable, Sequence

from pyqmail.system import processes
from pyqmail.system.loop import Loop
from pyqmail.warm.helper_process import LAST_WAIT_S, HelperProcess
from pyqmail.warm.supervised import Helper, listener

TITLE = "qmail-keeper"
TURN_S = 0.05  # from one look whether an earlier service has ended to the next


class Succession:
    """From the end of earlier supervisors until their helpers are watched here, or replaced: ``going_on``."""

    def __init__(
        self,
        home: str,
        queue: str,
        loop: Loop,
        helpers: Sequence[HelperProcess],
        restart: Callable[[HelperProcess], None],
        again: Callable[[HelperProcess, str], None],
    ) -> None:
        """``restart`` gets each helper that does not run any more; ``again`` one that was lost, and why."""
        self.going_on = False
        self._home = home
        self._queue = queue
        self._loop = loop
        self._helpers = [process for process in helpers if process.helper.outlives]
        self._restart = restart
        self._again = again
        self._bequeathed: set[int] = set()  # what earlier supervisors kept

    def begin(self) -> None:
        """Take over what an earlier supervisor keeps, or left behind when it was killed."""
        for earlier in supervisors(self._home, self._queue):
            for process in self._helpers:
                left = serving(self._home, process.helper)
                if left is not None and left.parent == earlier.pid:
                    self._bequeathed.add(left.pid)
            knows = earlier.name == TITLE and is_of_our_build(earlier.pid)
            processes.send_signal(earlier, signal.SIGUSR1 if knows else signal.SIGTERM)
        self.going_on = True
        self._look(time.monotonic() + LAST_WAIT_S)

    def give_up(self) -> None:
        """The helpers end: nothing more is taken over."""
        self._helpers = []

    def _look(self, until: float) -> None:
        """Watch the qmail-queued that is left, or start one as soon as that of another build has gone."""
        waiting = bool(supervisors(self._home, self._queue)) and time.monotonic() < until
        for process in self._helpers:
            if waiting or process.pid or process.waiting:
                continue
            left = serving(self._home, process.helper)
            if left is None:
                self._restart(process)
            elif left.pid in self._bequeathed or is_left_behind(left):
                waiting |= not self._take_over(process, left)
        self.going_on = waiting
        if waiting:
            self._loop.call_later(TURN_S, lambda: self._look(until))

    def _take_over(self, process: HelperProcess, left: processes.Process) -> bool:
        """Watch ``left``; false if it had to be told to end, since it is of another build."""
        if not is_of_our_build(left.pid):
            processes.send_signal(left, signal.SIGTERM)
            return False
        try:
            process.watch(left.pid, ours=False)
        except OSError:
            self._again(process, "cannot be watched")
        return True


def supervisors(home: str, queue: str) -> list[processes.Process]:
    """The other supervisors of ``home``, those of earlier versions too. Only processes of our own user are believed."""
    queue = os.path.realpath(queue)
    return [
        process
        for process in processes.all_processes()
        if process.uid == os.geteuid()
        and process.pid == process.session
        and process.pid not in (os.getpid(), os.getppid())
        and (process.name == TITLE or b"/qmail-start" in process.title)
        and processes.directory_of(process.pid) == queue
    ]


def serving(home: str, helper: Helper) -> processes.Process | None:
    """The process that answers as ``helper``; None when there is none, or none that we may see."""
    pid = listener(home, helper)
    return processes.look(pid) if pid is not None else None


def is_left_behind(process: processes.Process) -> bool:
    """Whether whoever started ``process`` has gone.

    A supervised service leads its own session, or is the child of its supervisor.
    """
    return process.parent == 1 and process.session not in (process.pid, 1) and processes.look(process.session) is None


def is_of_our_build(pid: int) -> bool:
    """Whether ``pid`` runs from the same copy of the package as we do."""
    return processes.build_of(pid) == processes.build_of(os.getpid())
