"""What may take as long as a stranger likes, done in threads beside the loop of the worker for that stranger alone."""

import _thread
import os
from collections import deque
from collections.abc import Callable

from pyqmail.log.bugs import tell_bug
from pyqmail.system.loop import Loop

THREADS_MAX = 8  # at once; what comes then waits for its turn
STACK_BYTES = 262144  # they must fit into a modest limit of memory

Deed = Callable[[], None]


class Aside:
    """A few threads, each for one deed; ``then`` is called in the loop when the deed is over, however it ended."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._running = 0
        self._waiting: deque[tuple[Deed, Deed]] = deque()
        self._over: deque[Deed] = deque()
        self._wake: tuple[int, int] | None = None

    def do(self, deed: Deed, then: Deed) -> None:
        """Have ``deed`` done, as soon as there is a thread for it. Raises RuntimeError when none can be made."""
        if self._running >= THREADS_MAX:
            self._waiting.append((deed, then))
            return
        if self._wake is None:
            self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._loop.add_reader(self._wake[0], self._collect)
            _thread.stack_size(STACK_BYTES)
        self._running += 1
        try:
            _thread.start_new_thread(self._run, (deed, then, self._wake[1]))
        except BaseException:
            self._running -= 1
            raise

    def _run(self, deed: Deed, then: Deed, wake: int) -> None:
        try:
            deed()
        except BaseException as error:
            tell_bug("qmail-queue", error)
        finally:
            self._over.append(then)
            try:
                os.write(wake, b"+")
            except OSError:
                pass  # full: the loop wakes up anyway

    def _collect(self) -> None:
        """In the loop: what follows the deeds that are over, and the next ones."""
        assert self._wake is not None
        try:
            os.read(self._wake[0], 4096)
        except BlockingIOError:
            pass
        while self._over:
            self._running -= 1
            self._over.popleft()()
        while self._waiting and self._running < THREADS_MAX:
            deed, then = self._waiting.popleft()
            try:
                self.do(deed, then)
            except RuntimeError:  # it is done here, come what may: it would wait for ever
                self._running += 1
                self._run(deed, then, self._wake[1])
