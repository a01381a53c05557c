"""The trigger and the walk through todo/: what is found, and when qmail-send looks again."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.send.todo_scan import ASIDE_MAX, SCAN_S, TodoScan
from pyqmail.system.loop import Loop
from tests.send.parts import NOW, means_for


class Walk:
    """A queue with a scan whose first walk has ended."""

    def __init__(self, home: Path) -> None:
        self.loop = Loop()
        self.todo = home / "queue/todo"
        self.trigger = home / "queue/lock/trigger"
        self.scan = TodoScan(means_for(home, self.loop, lambda event: None, lambda: NOW))
        self.found()

    def found(self, now: float = NOW) -> list[int]:
        """What a whole walk finds."""
        numbers = []
        self.scan.begin(now)
        while self.scan.under_way:
            number = self.scan.take()
            if number is not None:
                numbers.append(number)
        return sorted(numbers)

    def pull(self) -> None:
        """As qmail-queue does."""
        fd = os.open(self.trigger, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b"\0")
        os.close(fd)

    def wants(self) -> bool:
        """Whether a walk is wanted after a turn of the loop."""
        self.loop.run_once(0)
        return self.scan.next_time() == 0


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    made = Walk(tmp_path)
    yield made
    made.loop.close()


def test_pulls_are_one_walk_and_a_pull_after_its_begin_is_another(walk: Walk) -> None:
    assert not walk.wants()
    for _ in range(3):
        walk.pull()
    assert walk.wants()
    walk.scan.begin(NOW)
    walk.pull()
    assert walk.found() == [] and walk.wants()
    assert walk.found() == [] and not walk.wants()


def test_a_trigger_that_was_replaced_is_heard_after_the_next_walk_that_nobody_asked_for(walk: Walk) -> None:
    walk.trigger.unlink()
    os.mkfifo(walk.trigger)
    walk.found(now=NOW + SCAN_S)
    assert not walk.wants()
    walk.pull()
    assert walk.wants()


def test_what_was_taken_is_passed_by_until_it_is_given_back(walk: Walk) -> None:
    numbers = list(range(10, 10 + 2 * ASIDE_MAX))
    for number in numbers:
        (walk.todo / str(number)).touch()
    walk.scan.want()
    assert walk.found() == numbers
    walk.scan.want()
    assert walk.found() == []
    walk.scan.give_back(12)
    walk.scan.want()
    assert walk.found() == [12]


def test_what_left_todo_is_passed_by_in_this_walk_alone(walk: Walk) -> None:
    (walk.todo / "10").touch()
    walk.scan.want()
    assert walk.found() == [10]
    walk.scan.want()
    walk.scan.begin(NOW)
    walk.scan.left(10)  # the name may still come from the directory as it was read
    assert walk.scan.take() is None and not walk.scan.under_way
    walk.scan.want()
    assert walk.found() == [10]  # another message under the number


def test_a_turn_passes_by_so_many_and_no_more(walk: Walk) -> None:
    for number in range(10, 11 + ASIDE_MAX):
        (walk.todo / str(number)).touch()
    walk.scan.want()
    walk.scan.begin(NOW)
    for number in range(10, 11 + ASIDE_MAX):
        walk.scan.left(number)
    assert walk.scan.take() is None and walk.scan.under_way
