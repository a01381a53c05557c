"""qmail-send's thread: what a job returns is called from the loop, and no bug leaves the loop waiting."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from pyqmail.send.background import Background
from pyqmail.system.loop import Loop

STALLED_S = 20

PROGRAM = """
from pyqmail.send import background
from pyqmail.system.loop import Loop

{bug}

loop = Loop()
background.Background(loop).submit({job})
loop.run()
"""


def test_jobs_are_done_in_order_and_their_results_called_from_the_loop() -> None:
    loop = Loop()
    seen: list[str] = []
    background = Background(loop)

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
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=STALLED_S, check=False
    )
    assert done.returncode in (1, 111) and "RuntimeError: a bug" in done.stderr
