"""qmail-send's thread: what a job returns is called from the loop, and no bug leaves the loop waiting."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.formats.logline import safe_words
from pyqmail.log.bugs import describe_bug
from pyqmail.log.events import Alert, Event
from pyqmail.send import background as background_module
from pyqmail.send.background import Background
from pyqmail.system.loop import Loop

STALLED_S = 20


def no_line(event: Event) -> None:
    """For a log that nobody reads."""


PROGRAM = """
from pyqmail.send import background
from pyqmail.system.loop import Loop

{bug}

loop = Loop()
background.Background(loop, print).submit({job})
loop.run()
"""


def test_a_thread_that_ended_without_a_word_is_noticed_by_the_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Background, "_work_to_the_end", lambda _self: None)
    background = Background(Loop(), no_line)
    assert background._thread is not None
    background._thread.join(STALLED_S)
    with pytest.raises(background_module.JobLost):
        background.submit(lambda: lambda: None)


def test_jobs_are_done_in_order_and_their_results_called_from_the_loop() -> None:
    loop = Loop()
    seen: list[str] = []
    background = Background(loop, no_line)

    def job(name: str) -> Callable[[], Callable[[], None]]:
        def work() -> Callable[[], None]:
            seen.append(f"work {name}")
            return lambda: finish(name)

        return work

    def finish(name: str) -> None:
        seen.append(f"finish {name}")
        if name == "b":
            loop.stop()

    background.submit(job("a"))
    background.submit(job("b"))
    assert background.pending == 2
    loop.run()
    assert background.pending == 0
    assert seen.index("work a") < seen.index("work b")
    assert [text for text in seen if text.startswith("finish")] == ["finish a", "finish b"]


@pytest.mark.parametrize(
    ("bug", "job"),
    [
        ("def work(self): raise RuntimeError('a bug')\nbackground.Background._work = work", "lambda: None"),
        ("def job(): raise RuntimeError('a bug')", "job"),
    ],
    ids=["in the thread itself", "in a job"],
)
def test_a_bug_ends_the_program(bug: str, job: str) -> None:
    program = PROGRAM.format(bug=bug, job=job)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=STALLED_S, check=False
    )
    assert done.returncode in (1, 111) and "RuntimeError: a bug" in done.stderr


def test_the_thread_is_there_before_the_first_job() -> None:
    before = threading.active_count()
    Background(Loop(), no_line)
    assert threading.active_count() == before + 1


def test_without_a_thread_jobs_wait_until_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0

    def start(thread: threading.Thread) -> None:
        nonlocal refused
        refused += 1
        if refused == 2:
            monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(background_module, "AGAIN_S", 0.01)
    loop, lines = Loop(), list[bytes]()
    background = Background(loop, lambda event: lines.append(event.format()))
    background.submit(lambda: loop.stop)
    loop.run()
    assert refused == 2
    assert lines == [
        b"alert: unable to start a thread, will try again; what needs the disk waits",
        b"warning: the thread that was missing is there",
    ]


def test_an_error_is_one_line_that_says_where() -> None:
    def broken() -> None:
        raise KeyError("x\nalert: forged \x1b[0m")

    try:
        broken()
    except KeyError as error:
        line = Alert(safe_words(describe_bug(error))).format()
    assert re.fullmatch(
        rb"alert: bug: KeyError: 'x\\nalert: forged .x1b\[0m'; test_background.py:\d+ in broken < \S+ in test_an_\w+",
        line,
    ), line
    assert describe_bug(Unspeakable()) == "bug: Unspeakable"


class Unspeakable(Exception):
    """Its text is an error."""

    def __str__(self) -> str:
        raise ValueError
