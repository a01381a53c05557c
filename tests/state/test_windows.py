"""Counters as values: what a limit allows, what it counts, and clocks that jump."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.protocol.state import Rule, parse_rule
from pyqmail.state.clock import OFF_MAX_S, Clock
from pyqmail.state.table import Table
from pyqmail.state.windows import Windows

HOUR = 3600


def rule(most: int, seconds: int = HOUR, amount: int = 1, kind: bytes = b"recipients") -> Rule:
    return Rule(kind, amount, most, seconds)


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 3)), max_size=200))
def test_no_window_of_the_clock_has_more_than_the_limit_and_no_sliding_one_twice_that(
    steps: list[tuple[float, int]],
) -> None:
    windows, now, taken = Windows(Table(10)), 1000.0, []
    for step, amount in steps:
        now += step
        if windows.take(b"ann", [rule(10, 60, amount)], now) is None:
            taken.append((now, amount))
    for start, _ in taken:
        assert sum(amount for when, amount in taken if when // 60 == start // 60) <= 10
        assert sum(amount for when, amount in taken if start <= when < start + 60) <= 19


def test_what_was_sent_leaves_the_window_little_by_little() -> None:
    windows = Windows(Table(10))
    assert windows.take(b"ann", [rule(100, amount=100)], 10 * HOUR) is None
    over = windows.take(b"ann", [rule(100)], 10 * HOUR + 1800)
    assert over is not None
    assert windows.take(b"ann", [rule(100, amount=50)], 11 * HOUR + 1800) is None
    assert windows.take(b"ann", [rule(100)], 11 * HOUR + 1800) is not None
    assert windows.take(b"ann", [rule(100, amount=100)], 20 * HOUR) is None


@given(st.integers(1, 50), st.floats(0, 7200), st.floats(0, 7200))
def test_after_the_seconds_that_it_says_there_is_room(most: int, first: float, then: float) -> None:
    windows, now = Windows(Table(10)), 1e6 + first
    windows.take(b"ann", [rule(most, amount=most)], now)
    over = windows.take(b"ann", [rule(most)], now + then)
    if over is not None:
        assert 0 < over.seconds <= 2 * HOUR
        assert windows.take(b"ann", [rule(most)], now + then + over.seconds) is None


def test_two_windows_hold_together_and_a_refusal_counts_in_none() -> None:
    windows, rules = Windows(Table(10)), [rule(2), rule(3, 24 * HOUR)]
    assert [windows.take(b"ann", rules, 0) for _ in range(2)] == [None, None]
    over = windows.take(b"ann", rules, 1)
    assert over is not None and over.rule.seconds == HOUR
    assert windows.take(b"ann", rules, 3 * HOUR) is None
    over = windows.take(b"ann", rules, 3 * HOUR)
    assert over is not None and over.rule.seconds == 24 * HOUR
    counts = {count.seconds: (count.count, count.refused) for count in windows.counts(3 * HOUR)}
    assert counts == {HOUR: (1, 0), 24 * HOUR: (3, 1)}, "the refusal of three hours ago is forgotten with its window"


def test_kinds_and_names_are_counted_apart_and_a_changed_limit_goes_on() -> None:
    windows = Windows(Table(10))
    assert windows.take(b"ann", [rule(1), rule(1, kind=b"messages")], 0) is None
    assert windows.take(b"bob", [rule(1)], 0) is None
    assert windows.take(b"ann", [rule(1)], 0) is not None
    assert windows.take(b"ann", [rule(2)], 0) is None
    assert windows.reset(b"ann", 0) == 2
    assert windows.take(b"ann", [rule(1)], 0) is None


def test_every_counter_expires_and_there_are_never_more_than_fit() -> None:
    table = Table(3)
    windows = Windows(table)
    for number in range(10):
        windows.take(b"user%d" % number, [rule(5)], 0)
    assert [count.key for count in windows.counts(0)] == [b"user7", b"user8", b"user9"]
    table.sweep(2 * HOUR + 1)
    assert len(table) == 0


@pytest.mark.parametrize(
    "text", [b"", b"m 1 2", b"m 1 2 0", b"m -1 2 3", b"m 1 2 3 4", b"m 99999999999 2 3", b" 1 2 3"]
)
def test_what_is_no_rule_is_none(text: bytes) -> None:
    assert parse_rule(text) is None


class Machine:
    """Its clocks, and a process that starts on it."""

    def __init__(self) -> None:
        self.up, self.wall = 1000.0, 1e9

    def clock(self) -> Clock:
        return Clock(lambda: self.up, lambda: self.wall)


def test_the_clock_goes_on_in_the_next_process_whatever_the_wall_clock_says() -> None:
    machine = Machine()
    clock = machine.clock()
    words = clock.format().split()
    machine.up += 5
    machine.wall -= 1e6
    after = machine.clock()
    after.go_on(words)
    assert after.now() == clock.now()


@pytest.mark.parametrize(("off", "seen"), [(100.0, 100), (-1e6, 0), (1e8, OFF_MAX_S)], ids=["off", "back", "far ahead"])
def test_after_a_start_of_the_machine_the_wall_clock_counts_and_never_backwards(off: float, seen: float) -> None:
    machine = Machine()
    clock = machine.clock()
    then = clock.now()
    words = [b"another-boot", *clock.format().split()[1:]]
    machine.up = 3.0
    machine.wall += off
    after = machine.clock()
    after.go_on(words)
    assert after.now() == pytest.approx(then + seen, abs=0.01)
    again = machine.clock()
    again.go_on(after.format().split())
    assert again.now() == pytest.approx(after.now(), abs=0.01)
