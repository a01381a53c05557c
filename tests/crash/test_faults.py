"""A fault in each program of the chain: the sender hears a temporary failure or the message is safe, and life goes on.

Every fault by ``python -m tests.crash.faults``.
"""

import errno
import os

import pytest

from tests.crash.faults import PROGRAMS, Bench, Result, in_tree, trouble
from tests.crash.trip import Trip

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
EVERY = {
    "qmail-send": 111,
    "qmail-clean": 43,
    "qmail-queued": 37,
    "qmail-queue": 11,
    "qmail-local": 7,
    "qmail-lspawn": 37,
    "qmail-rspawn": 37,
}


@pytest.mark.parametrize("bugs", [False, True], ids=["faults", "bugs"])
@pytest.mark.parametrize("program", list(EVERY))
def test_nothing_is_lost_refused_or_stuck(program: str, bugs: bool) -> None:
    result = trouble(program, 5 if bugs else EVERY[program], bugs=bugs)
    print(*result.lines(), sep="\n")
    assert result.faults >= 3
    assert not result.wrong, result.lines()


def test_a_report_that_finds_no_memory_is_made_later() -> None:
    def run(bench: Bench) -> list[Result]:
        result = Result("qmail-rspawn")
        for number in range(1, 20):
            trip = Trip(number, "error", errno.ENOMEM, calls=("write",))
            wrong = PROGRAMS["qmail-rspawn"](bench, trip)
            if not trip.fired:
                break
            result.faults += 1
            result.wrong += [f"{trip}: {what}" for what in wrong]
        return [result]

    (result,) = in_tree(run)
    assert result.faults >= 2
    assert not result.wrong, result.lines()
