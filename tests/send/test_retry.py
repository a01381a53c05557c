"""When to try again."""

import tracemalloc

import pytest

from pyqmail.send.retry import Schedule, next_retry


@pytest.mark.contract("send 6.2", "send 6.3")
@pytest.mark.parametrize(
    ("step", "ages"), [(10, [0, 100, 400, 900, 1600]), (20, [0, 400, 1600, 3600, 6400])], ids=["local", "remote"]
)
def test_ages_of_the_attempts(step: int, ages: list[int]) -> None:
    birth, now = 1000, 1000
    for age in ages:
        assert now == birth + age
        now = next_retry(birth, now, step)


def test_a_birth_in_the_future_counts_as_now() -> None:
    assert next_retry(1000, 500, 10) == 600


def test_the_earliest_is_first_and_none_before_its_time() -> None:
    schedule = Schedule()
    for number, when in ((7, 30), (1 << 63, 10), (5, 20)):
        schedule.add(number, when)
    assert (schedule.next_time(), schedule.pop_due(9)) == (10, None)
    assert [schedule.pop_due(20) for _ in range(3)] == [1 << 63, 5, None]
    schedule.all_due(1)
    assert list(schedule.items()) == [(7, 1)]


def test_new_ones_and_old_ones_that_are_due_are_served_in_turn() -> None:
    schedule = Schedule()
    for number in range(10, 15):
        schedule.add(number, 5)
    for number in (1, 2, 3):
        schedule.add_new(number, 100)
    assert len(schedule) == 8
    assert [schedule.pop_due(100) for _ in range(9)] == [1, 10, 2, 11, 3, 12, 13, 14, None]


def test_orders_find_what_waits_in_either_line() -> None:
    schedule = Schedule()
    schedule.add(1, 50)
    schedule.add(2, 60)
    schedule.add_new(3, 10)
    schedule.make_due({2, 3, 9}, 20)
    assert sorted(schedule.snapshot()) == [(1, 50), (2, 20), (3, 10)]
    schedule.remove({2, 3})
    assert list(schedule.items()) == [(1, 50)]


@pytest.mark.contract("send 6a.6")
def test_a_hundred_thousand_waiting_messages_take_few_bytes() -> None:
    tracemalloc.start()
    schedule = Schedule()
    for number in range(100_000):
        schedule.add((1 << 40) + number, 1_700_000_000 + number % 1000)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 100_000 * 80
