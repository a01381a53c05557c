"""When a helper that ended is started again, as values."""

from pyqmail.warm.helper_process import LAST_WAIT_S, BackOff, how_it_ended


def test_one_that_ends_at_once_waits_twice_as_long_each_time() -> None:
    back_off = BackOff()
    assert [back_off.after(0.1) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_one_that_lived_is_started_again_soon() -> None:
    back_off = BackOff()
    assert [back_off.after(lived) for lived in (0, 0, LAST_WAIT_S, 0)] == [1, 2, 1, 2]


def test_the_end_of_a_process_in_words() -> None:
    assert how_it_ended(-9) == "was killed by signal 9"
    assert how_it_ended(111) == "ended with 111"
