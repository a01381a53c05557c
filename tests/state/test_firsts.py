"""Greylisting as a value: who is new waits, who comes again is known, and a flood forgets nobody's limit."""

from hypothesis import given
from hypothesis import strategies as st

from pyqmail.state.firsts import Firsts
from pyqmail.state.table import Table

WAIT, AGAIN, KEEP = 60, 7200, 86400


def left(firsts: Firsts, now: float, key: bytes = b"net\0from\0to") -> int:
    return firsts.left(key, WAIT, AGAIN, KEEP, now)


def test_a_newcomer_waits_and_is_known_from_then_on() -> None:
    firsts = Firsts(Table(10))
    assert [left(firsts, now) for now in (100, 130, 159, 160)] == [60, 30, 1, 0]
    assert left(firsts, 160 + KEEP - 1) == 0
    assert left(firsts, 160 + 2 * KEEP - 2) == 0, "each time that it comes it is known for longer"
    assert left(firsts, 160 + 3 * KEEP) == WAIT


def test_who_comes_too_late_is_new_again_and_others_are_others() -> None:
    firsts = Firsts(Table(10))
    assert left(firsts, 0) == WAIT
    assert left(firsts, AGAIN + 1) == WAIT
    assert left(firsts, AGAIN + 1 + WAIT, b"net\0other\0to") == WAIT
    assert left(firsts, AGAIN + 1 + WAIT) == 0


@given(st.lists(st.integers(0, 200), min_size=1, max_size=30))
def test_nobody_waits_longer_than_told(steps: list[int]) -> None:
    firsts, now = Firsts(Table(10)), 1000
    until = now + left(firsts, now)
    for step in steps:
        now += step
        assert left(firsts, now) == max(0, until - now)
