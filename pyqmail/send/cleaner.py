"""The requester's side of qmail-clean: requests in a row, one answer byte each (qmail-clean(8))."""

import os
from collections import deque
from collections.abc import Callable

from pyqmail.system import files
from pyqmail.system.loop import Loop

Answered = Callable[[bool], None]


class Cleaner:
    """Sends requests without waiting; answers come in the order of the requests."""

    def __init__(self, loop: Loop, requests: int, answers: int, lost: Callable[[], None]) -> None:
        self._loop = loop
        self._requests = requests
        self._answers = answers
        self._lost = lost
        self._waiting: deque[Answered] = deque()
        self._dead = False
        loop.add_reader(answers, self._read)

    def ask(self, kind: bytes, number: int, answered: Answered) -> None:
        """Ask for ``todo/N`` or ``foop/N``; ``answered(True)`` when it is done. Without qmail-clean: False."""
        if self._dead:
            answered(False)
            return
        self._waiting.append(answered)
        try:
            files.write_all(self._requests, b"%b/%d\0" % (kind, number))
        except OSError:
            self._die()

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
        self._lost()
        while self._waiting:
            self._waiting.popleft()(False)
