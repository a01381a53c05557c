"""The loop: descriptors, timers and signals call back."""

import os
import signal
from collections.abc import Iterator

import pytest

from pyqmail.system.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_a_readable_descriptor_calls_back(loop: Loop) -> None:
    reader, writer = os.pipe()
    heard: list[bytes] = []

    def read() -> None:
        heard.append(os.read(reader, 10))
        loop.stop()

    loop.add_reader(reader, read)
    os.write(writer, b"x")
    loop.call_later(10, loop.stop)
    loop.run()
    assert heard == [b"x"]
    loop.remove_reader(reader)
    os.close(reader)
    os.close(writer)


def test_timers_run_in_order_and_cancelled_ones_do_not(loop: Loop) -> None:
    order: list[int] = []
    loop.call_later(0.03, loop.stop)
    loop.call_later(0.02, lambda: order.append(2))
    loop.call_later(0.01, lambda: order.append(1))
    loop.call_later(0.005, lambda: order.append(0)).cancel()
    loop.run()
    assert order == [1, 2]


def test_a_signal_calls_back_from_the_loop(loop: Loop) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    heard: list[int] = []

    def hear() -> None:
        heard.append(1)
        loop.stop()

    loop.add_signal(signal.SIGUSR1, hear)
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.call_later(10, loop.stop)
    loop.run()
    signal.signal(signal.SIGUSR1, before)
    assert heard == [1]


def test_a_signal_whose_callback_raises_calls_once_more(loop: Loop) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    heard: list[int] = []

    def hear() -> None:
        heard.append(1)
        raise ZeroDivisionError

    loop.add_signal(signal.SIGUSR1, hear)
    os.kill(os.getpid(), signal.SIGUSR1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            loop.run_once(10)
    loop.run_once(0)
    signal.signal(signal.SIGUSR1, before)
    assert len(heard) == 2


def test_what_gathers_in_a_turn_goes_out_before_the_loop_waits(loop: Loop) -> None:
    sent: list[str] = []
    loop.before_wait(lambda: sent.append("from outside"))
    loop.call_later(0.0, lambda: loop.before_wait(lambda: sent.append("from a callback")))
    loop.run_once(1)
    assert sent == ["from outside", "from a callback"]
    loop.run_once(0)
    assert len(sent) == 2


@pytest.mark.parametrize("closed", [True, False])
def test_a_number_whose_watch_was_not_taken_out_whole_can_be_watched_again(
    loop: Loop, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise MemoryError

    reader, writer = os.pipe()
    loop.add_reader(reader, loop.stop)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_apply", interrupted)
        with pytest.raises(MemoryError):
            loop.remove_reader(reader)
    if closed:
        os.close(reader)
        again, other = os.pipe()
        assert again == reader
    else:
        again, other = reader, writer
    heard: list[bytes] = []
    loop.add_reader(again, lambda: heard.append(os.read(again, 10)) or loop.stop())  # type: ignore[func-returns-value]
    os.write(other, b"x")
    loop.call_later(10, loop.stop)
    loop.run()
    assert heard == [b"x"]
    loop.remove_reader(again)
    for fd in {writer, again, other}:
        os.close(fd)
