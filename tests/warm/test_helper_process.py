"""When a helper that ended is started again, as values; what is heard of its end, from a real process."""

import os

from pyqmail.system.loop import Loop
from pyqmail.warm.helper_process import LAST_WAIT_S, BackOff, HelperProcess, how_it_ended
from pyqmail.warm.supervised import HELPERS


def test_one_that_ends_at_once_waits_twice_as_long_each_time() -> None:
    back_off = BackOff()
    assert [back_off.after(0.1) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_one_that_lived_is_started_again_soon() -> None:
    back_off = BackOff()
    assert [back_off.after(lived) for lived in (0, 0, LAST_WAIT_S, 0)] == [1, 2, 1, 2]


def test_the_end_of_a_process_in_words() -> None:
    assert how_it_ended(-9) == "was killed by signal 9"
    assert how_it_ended(111) == "ended with 111"
    assert how_it_ended(111, "bug: KeyError: 7") == "ended with 111 (bug: KeyError: 7)"
    assert how_it_ended(None) == "has ended"


def test_what_escapes_from_a_helper_is_heard_of_though_it_has_no_log() -> None:
    loop, ended = Loop(), list[tuple[int | None, str]]()

    def serve(argv: object) -> int:
        raise ValueError(f"odd\n\x1b {argv} in {os.getpid()}" + "x" * 5000)

    def end(process: HelperProcess, code: int | None) -> None:
        ended.append((code, process.last_words()))

    process = HelperProcess(HELPERS[0], loop, end)
    for run in (serve, lambda argv: 3):
        process.start(run, lambda fd: None)
        pid, seen = process.pid, len(ended)
        while len(ended) == seen:
            loop.run_once()
        if run is serve:
            assert ended[0][0] == 111 and len(ended[0][1]) == 600
            assert ended[0][1].startswith(f"bug: ValueError: odd ? [{HELPERS[0].name!r}] in {pid}x")
    assert ended[1] == (3, "")
    loop.close()
