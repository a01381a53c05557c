"""Given these files in todo/ and these answers of qmail-clean: what is offered, written, accepted?"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from pyqmail.log.events import Event
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.retry import TROUBLE_S
from pyqmail.send.todo_pass import TodoPass
from pyqmail.send.todo_scan import SCAN_S
from pyqmail.spool.preprocess import New
from pyqmail.system.loop import Loop
from tests.send.parts import NOW, means_for

ANN, FAR = b"ann@here.example", b"x@far.example"


class Asked:
    """In place of qmail-clean: what it is asked, and the answers that wait."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Callable[[bool], None]]] = []

    def ask(self, kind: bytes, number: int, answered: Callable[[bool], None]) -> None:
        """Noted."""
        self.waiting.append((number, answered))

    def answer(self, done: bool = True) -> None:
        """Everything that was asked is answered so."""
        waiting, self.waiting = self.waiting, []
        for _, answered in waiting:
            answered(done)


class OneTodo:
    """A todo pass over a queue of files."""

    def __init__(self, home: Path) -> None:
        self.lines: list[bytes] = []
        self.now: float = NOW
        means = means_for(home, Loop(), self._say, lambda: self.now)
        self.queue = home / "queue"
        self.clean = Asked()
        self.takes_fresh = False
        self.offered: list[New] = []
        self.accepted: list[tuple[int, tuple[str, ...]]] = []
        self.ended: list[int] = []
        self.todo = TodoPass(means, cast(Cleaner, self.clean), self)

    def _say(self, event: Event) -> None:
        self.lines.append(event.format())

    def put(self, number: int, *recipients: bytes) -> None:
        """A new message."""
        (self.queue / f"mess/0/{number}").write_bytes(b"x\n")
        envelope = b"u1\0p2\0Fjoe@a.example\0" + b"".join(b"T" + name + b"\0" for name in recipients)
        (self.queue / f"todo/{number}").write_bytes(envelope)

    def turn(self, *, scan: bool = False) -> None:
        """One step; ``scan``: so much later that todo/ is read again."""
        if scan:
            self.now += SCAN_S
        for _ in range(2):
            self.todo.step(self.now)

    def gone(self, number: int) -> None:
        """qmail-clean removes todo/N and says so."""
        (self.queue / f"todo/{number}").unlink()
        self.clean.answer()

    # where messages go

    def offer(self, new: New) -> bool:
        """As the test says."""
        if self.takes_fresh:
            self.offered.append(new)
        return self.takes_fresh

    def accept(self, number: int, channels: tuple[str, ...]) -> None:
        """Noted."""
        self.accepted.append((number, channels))

    def end_fresh(self, number: int) -> None:
        """Noted."""
        self.ended.append(number)


@pytest.fixture
def one(tmp_path: Path) -> OneTodo:
    return OneTodo(tmp_path)


def test_a_message_has_its_files_before_its_todo_goes_and_is_accepted_after(one: OneTodo) -> None:
    one.put(7, ANN, FAR)
    one.turn()
    assert (one.queue / "local/0/7").read_bytes() == b"T" + ANN + b"\0"
    assert (one.queue / "remote/0/7").read_bytes() == b"T" + FAR + b"\0"
    assert [number for number, _ in one.clean.waiting] == [7] and one.accepted == [] and one.todo.holds(7)
    one.gone(7)
    assert one.accepted == [(7, ("local", "remote"))] and not one.todo.holds(7)


def test_a_todo_that_qmail_clean_cannot_remove_is_tried_with_the_next_scan(one: OneTodo) -> None:
    one.put(7, ANN)
    one.turn()
    one.clean.answer(done=False)
    assert one.lines[-1] == b"warning: qmail-clean unable to clean up todo/7" and not one.todo.holds(7)
    one.turn(scan=True)
    one.gone(7)
    assert one.accepted == [(7, ("local",))]


def test_nothing_is_offered_in_the_first_scan(one: OneTodo) -> None:
    one.takes_fresh = True
    one.put(7, ANN)
    one.turn()
    assert one.offered == [] and (one.queue / "info/0/7").exists()


def test_what_is_delivered_fresh_never_has_files(one: OneTodo) -> None:
    one.turn()
    one.takes_fresh = True
    one.put(7, ANN)
    one.turn(scan=True)
    assert [new.number for new in one.offered] == [7] and not (one.queue / "info/0/7").exists()
    one.todo.delivered(7)
    one.gone(7)
    assert one.ended == [7] and one.accepted == []


def test_what_is_not_delivered_fresh_gets_its_files_and_is_announced_once(one: OneTodo) -> None:
    one.turn()
    one.takes_fresh = True
    one.put(7, ANN)
    one.turn(scan=True)
    written: list[bool] = []
    one.todo.write(one.offered[0], written.append)
    assert written == [] and (one.queue / "local/0/7").exists()
    one.gone(7)
    assert written == [True] and one.lines.count(b"new msg 7") == 1 and one.accepted == []


def test_at_the_end_what_has_no_files_yet_stays_in_todo(one: OneTodo) -> None:
    one.turn()
    one.takes_fresh = True
    one.put(7, ANN)
    one.turn(scan=True)
    (one.queue / "info/0/7").mkdir()
    written: list[bool] = []
    one.todo.write(one.offered[0], written.append)
    assert written == []  # again in TROUBLE_S seconds, but for the end
    one.todo.stop()
    assert written == [False] and TROUBLE_S > 0


def test_a_damaged_envelope_is_said_and_keeps_nobody_else(one: OneTodo) -> None:
    one.put(7, ANN)
    (one.queue / "todo/7").write_bytes(b"X\0")
    one.put(8, ANN)
    one.turn()
    assert b"warning: unknown record type in todo/7" in one.lines
    assert [number for number, _ in one.clean.waiting] == [8]


def test_the_next_scan_is_in_25_minutes_if_nobody_pulls(one: OneTodo) -> None:
    one.turn()
    assert one.todo.next_time() == NOW + SCAN_S
