"""One time limit, and many, one after another."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from pyqmail.system import alarm
from pyqmail.system.alarm import LastingAlarm, TimeUp, time_limit


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.setitimer(signal.ITIMER_REAL, *before[1])
    signal.signal(signal.SIGALRM, before[0])


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each timer that is set; none rings."""
    made: list[float] = []
    monkeypatch.setattr(alarm._signal, "setitimer", lambda _which, seconds: made.append(seconds))
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows, to be changed."""
    shown = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: shown[0])
    return shown


@pytest.mark.parametrize("lasting", [False, True])
def test_what_waits_longer_is_interrupted(lasting: bool) -> None:
    if lasting:
        LastingAlarm().install()
    began = time.monotonic()
    with pytest.raises(TimeUp), time_limit(0.05):
        time.sleep(60)
    assert 0.05 <= time.monotonic() - began < 30


def test_the_old_handler_comes_back() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    with time_limit(60):
        pass
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_IGN
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_equal_limits_set_one_timer(timers: list[float], clock: list[float]) -> None:
    LastingAlarm().install()
    for _ in range(5):
        with time_limit(100):
            clock[0] += 10
    assert timers == [100]


def test_a_shorter_limit_sets_its_own(timers: list[float], clock: list[float]) -> None:
    LastingAlarm().install()
    with time_limit(100):
        pass
    with time_limit(30):
        pass
    assert timers == [100, 30]


def test_an_early_ring_is_set_anew_for_what_is_left(timers: list[float], clock: list[float]) -> None:
    LastingAlarm().install()
    with time_limit(100):
        clock[0] += 60
    with time_limit(100):
        clock[0] += 40
        os.kill(os.getpid(), signal.SIGALRM)  # as the first one's timer does
        assert timers == [100, 60]
        clock[0] += 60
        with pytest.raises(TimeUp):
            os.kill(os.getpid(), signal.SIGALRM)


def test_a_ring_between_two_limits_is_nothing_and_the_next_one_has_a_timer(
    timers: list[float], clock: list[float]
) -> None:
    LastingAlarm().install()
    with time_limit(100):
        pass
    clock[0] += 100
    os.kill(os.getpid(), signal.SIGALRM)
    with time_limit(100):
        pass
    assert timers == [100, 100]


def test_a_limit_of_no_time_at_all_rings() -> None:
    LastingAlarm().install()
    with pytest.raises(TimeUp), time_limit(0):
        time.sleep(60)
