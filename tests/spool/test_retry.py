"""When to try again."""

import pytest

from pyqmail.spool.retry import Schedule, next_retry


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
    assert next_retry(1000, 500, 10) == 1100


def test_the_earliest_is_first_and_none_before_its_time() -> None:
    schedule = Schedule()
    for number, when in ((7, 30), (1 << 63, 10), (5, 20)):
        schedule.add(number, when)
    assert (schedule.next_time(), schedule.pop_due(9)) == (10, None)
    assert [schedule.pop_due(20) for _ in range(3)] == [1 << 63, 5, None]
    schedule.all_due(1)
    assert list(schedule.items()) == [(7, 1)]
