"""The requester's side of qmail-clean: requests in a row, one answer byte each (qmail-clean(8))."""

import os
from collections import deque
from collections.abc import Callable

from pyqmail.system.loop import Loop

Answered = Callable[[bool], None]
MANY = 1000  # requests under way


class Cleaner:
    """Sends requests without waiting; answers come in the order of the requests."""

    def __init__(self, loop: Loop, requests: int, answers: int, lost: Callable[[], None]) -> None:
        self._loop = loop
        self._requests = requests
        self._answers = answers
        self._lost = lost
        self._waiting: deque[Answered] = deque()
        self._dead = False
        self._out = b""
        os.set_blocking(requests, False)
        loop.add_reader(answers, self._read)

    @property
    def busy(self) -> bool:
        """Whether what can wait should wait."""
        return len(self._waiting) >= MANY

    def ask(self, kind: bytes, number: int, answered: Answered) -> None:
        """Ask for ``todo/N`` or ``foop/N``; ``answered(True)`` when it is done. Without qmail-clean: False."""
        if self._dead:
            answered(False)
            return
        self._waiting.append(answered)
        idle = not self._out
        self._out += b"%b/%d\0" % (kind, number)
        if idle:
            self._loop.before_wait(self._write)

    @property
    def waiting(self) -> bool:
        """Whether an answer has not come yet."""
        return bool(self._waiting)

    def _write(self) -> None:
        try:
            self._out = self._out[os.write(self._requests, self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._die()
            return
        if self._out:
            self._loop.add_writer(self._requests, self._write)
        else:
            self._loop.remove_writer(self._requests)

    def _read(self) -> None:
        try:
            answers = os.read(self._answers, 4096)
        except BlockingIOError:
            return
        except OSError:
            answers = b""
        if not answers:
            self._die()
            return
        for answer in answers:
            if self._waiting:
                self._waiting.popleft()(answer == ord("+"))

    def _die(self) -> None:
        if self._dead:
            return
        self._dead = True
        self._loop.remove_reader(self._answers)
        self._loop.remove_writer(self._requests)
        self._lost()
        while self._waiting:
            self._waiting.popleft()(False)
