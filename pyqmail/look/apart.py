"""A part of a program in a process of its own, as another user, that answers questions: one JSON value a line.

The process ends when its parent does. What it answers is checked by who asks: it reads what strangers wrote.
"""

import json
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

from pyqmail.log.bugs import tell_bug
from pyqmail.system.process import CHILD_FAILED, close_all_but, fork_child, reset_signals, set_title

ANSWER_MAX = 16 << 20  # bytes
QUESTION_MAX = 1 << 20
CHUNK = 1 << 16


class Lost(Exception):
    """The other process has ended, or says what is no answer."""


class Slow(Exception):
    """There was no answer in time."""


class Answering(Protocol):
    """What the process does."""

    def turn(self) -> float:
        """Do what there is to do; seconds until there is more."""

    def answer(self, question: object) -> object:
        """The answer. Whatever it raises ends the process."""


class Apart:
    """The parent's end; threads may share it."""

    def __init__(self, title: str, become: Callable[[], None], make: Callable[[], Answering]) -> None:
        """Fork. ``become`` and ``make`` are called in the new process. Raises OSError."""
        ours, theirs = socket.socketpair()
        fork_child(lambda: _prepare(title, theirs, become), lambda: _serve(title, theirs, make))
        theirs.close()
        self._sock = ours
        self._lock = threading.Lock()
        self._rest = b""
        self._serial = 0
        self.title = title

    def ask(self, question: object, patience_s: float) -> object:
        """The answer. Raises Lost and Slow."""
        with self._lock:
            self._serial += 1
            deadline = time.monotonic() + patience_s
            try:
                self._sock.settimeout(patience_s)
                self._sock.sendall(json.dumps([self._serial, question]).encode() + b"\n")
                while True:
                    match json.loads(self._line(deadline)):
                        case [self._serial, answer]:
                            return answer
                        case [int(), _]:
                            continue  # to a question whose asker has lost patience
                        case _:
                            raise Lost(f"{self.title} answers what is no answer")
            except TimeoutError:
                raise Slow(f"{self.title} has not answered within {patience_s:.0f} s") from None
            except (OSError, ValueError, RecursionError) as error:
                raise Lost(f"{self.title}: {error}") from None

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._sock.recv(CHUNK)
            if not data or len(self._rest) + len(data) > ANSWER_MAX:
                raise OSError("it has ended" if not data else "its answer is too long")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line


def _prepare(title: str, theirs: socket.socket, become: Callable[[], None]) -> None:
    reset_signals()
    close_all_but((0, 1, 2, theirs.fileno()))
    set_title(title)
    become()


def _serve(title: str, sock: socket.socket, make: Callable[[], Answering]) -> int:
    """Answer until the parent has gone; a bug ends it, with a line."""
    try:
        return _answer_all(sock, make())
    except Exception as error:
        tell_bug(title, error)
        return CHILD_FAILED


def _answer_all(sock: socket.socket, work: Answering) -> int:
    rest = b""
    while True:
        wait_s = work.turn()
        if not select.select([sock], [], [], wait_s)[0]:
            continue
        data = sock.recv(CHUNK)
        if not data or len(rest) > QUESTION_MAX:
            return 0
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            serial, question = json.loads(line)
            sock.sendall(json.dumps([serial, work.answer(question)]).encode() + b"\n")
