"""Which deliveries go together (pyqmail.warm.batch), asked of a loop without descriptors."""

from collections.abc import Callable, Hashable, Sequence
from typing import cast

import pytest

from pyqmail.protocol.spawn import Command
from pyqmail.system.loop import Loop
from pyqmail.warm.batch import AT_ONCE, PATIENCE_S, QUIET_S, Batches

A, B = ("1", "s@x.test", "x.test"), ("2", "s@x.test", "x.test")


class Timer:
    """One of the loop below."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Turns:
    """A loop whose clock goes where the test wants it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting: list[Callable[[], None]] = []
        self.timers: list[Timer] = []

    def before_wait(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + seconds, callback))
        return self.timers[-1]

    def turn(self, seconds: float = 0.0) -> None:
        """What has gathered is seen to, and then ``seconds`` go by."""
        while self.waiting:
            self.waiting.pop(0)()
        self.now += seconds
        for timer in sorted(self.timers, key=lambda timer: timer.when):
            if timer.callback and timer.when <= self.now:
                callback, timer.callback = timer.callback, None
                callback()


class Deliveries:
    """Batches, and how many recipients went together, by group, in order."""

    def __init__(self) -> None:
        self.loop = Turns()
        self.began: list[tuple[Hashable, int]] = []
        self.batches = Batches(cast(Loop, self.loop), self._start)

    def _start(self, key: Hashable, commands: Sequence[Command]) -> None:
        self.began.append((key, len(commands)))

    def add(self, key: Hashable, count: int = 1, most: int = 50) -> None:
        for slot in range(count):
            self.batches.add(key, [Command(slot, b"1", b"s@x.test", b"r@x.test")], most)


@pytest.fixture
def deliveries() -> Deliveries:
    return Deliveries()


def test_what_comes_together_goes_together_and_at_once(deliveries: Deliveries) -> None:
    deliveries.add(A, 20)
    deliveries.add(B)
    assert deliveries.began == []
    deliveries.loop.turn()
    assert deliveries.began == [(A, 20), (B, 1)] and deliveries.loop.timers == []


def test_never_more_than_may(deliveries: Deliveries) -> None:
    deliveries.add(A, 7, most=3)
    assert deliveries.began == [(A, 3), (A, 3)]
    deliveries.loop.turn(PATIENCE_S)
    assert deliveries.began == [(A, 3), (A, 3), (A, 1)]


def test_a_few_full_ones_go_at_once_and_the_others_where_these_end(deliveries: Deliveries) -> None:
    deliveries.add(A, 3 * (AT_ONCE * 2 + 3) + 1, most=3)
    assert deliveries.began == [(A, 3)] * AT_ONCE
    deliveries.batches.ended(A)
    assert deliveries.began == [(A, 3)] * (AT_ONCE + 1)
    deliveries.loop.turn(PATIENCE_S)
    assert deliveries.began == [(A, 3)] * (AT_ONCE * 2 + 1)
    deliveries.loop.turn(PATIENCE_S)
    assert deliveries.began == [(A, 3)] * (AT_ONCE * 2 + 3) + [(A, 1)]
    for _ in range(AT_ONCE * 2 + 3):
        deliveries.batches.ended(A)
    deliveries.add(A)
    deliveries.loop.turn()
    assert deliveries.began[AT_ONCE * 2 + 4 :] == [(A, 1)], "nothing is under way"


def test_those_of_one_command_stay_together(deliveries: Deliveries) -> None:
    deliveries.add(A, 2)
    deliveries.batches.add(A, Command(2, b"1", b"s@x.test", b"a@x.test", others=(b"b@x.test",)).apart(), 3)
    assert deliveries.began == [(A, 2)]
    deliveries.loop.turn(PATIENCE_S)
    assert deliveries.began == [(A, 2), (A, 2)]


def test_what_comes_meanwhile_waits_for_the_end_and_for_who_begins_then(deliveries: Deliveries) -> None:
    deliveries.add(A)
    deliveries.loop.turn()
    deliveries.add(A, 4)
    deliveries.loop.turn()
    deliveries.add(B)
    deliveries.loop.turn()
    deliveries.batches.ended(A)
    deliveries.add(A, 1)
    deliveries.loop.turn()
    assert deliveries.began == [(A, 1), (B, 1), (A, 5)]


def test_it_does_not_wait_for_nobody(deliveries: Deliveries) -> None:
    deliveries.add(A)
    deliveries.loop.turn()
    deliveries.add(A, 4)
    deliveries.loop.turn()
    deliveries.batches.ended(A)
    deliveries.loop.turn(QUIET_S)
    assert deliveries.began == [(A, 1), (A, 4)]


def test_what_waits_may_be_taken_out_again(deliveries: Deliveries) -> None:
    deliveries.add(B)
    assert [command.slot for command in deliveries.batches.take(0)] == [0]
    deliveries.loop.turn()
    assert deliveries.began == [] and deliveries.batches.take(0) == []
    deliveries.add(A, AT_ONCE * 2 + 3, most=2)  # slots count from 0, two wait as a full one, two have not come to that
    assert deliveries.began == [(A, 2)] * AT_ONCE
    assert [command.slot for slot in (1, 8, 9, 10) for command in deliveries.batches.take(slot)] == [8, 9, 10]
    for _ in range(AT_ONCE):
        deliveries.batches.ended(A)
    deliveries.loop.turn(PATIENCE_S)
    deliveries.add(A)
    deliveries.loop.turn()
    assert deliveries.began == [(A, 2)] * AT_ONCE + [(A, 1)]


def test_a_slow_one_holds_nobody_up_for_long(deliveries: Deliveries) -> None:
    deliveries.add(A)
    deliveries.loop.turn()
    deliveries.add(A, 2)
    deliveries.loop.turn(PATIENCE_S / 2)
    deliveries.add(A, 2)
    deliveries.loop.turn(PATIENCE_S / 2)
    assert deliveries.began == [(A, 1), (A, 4)]
    deliveries.batches.ended(A)
    deliveries.batches.ended(A)
    deliveries.add(A)
    deliveries.loop.turn()
    assert deliveries.began[2:] == [(A, 1)]
