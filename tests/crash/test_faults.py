"""A fault in each program of the chain: the sender hears a temporary failure or the message is safe, and life goes on.

Every fault with PYQMAIL_TESTS_LONG, or by ``python -m tests.crash.faults``.
"""

import errno
import os
import select
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from pyqmail import launch
from pyqmail.intake import client
from pyqmail.system.stamp import Seen
from tests.crash import doors
from tests.crash.faults import ACTIONS, BUGS, PROGRAMS, Bench, Result, in_tree, inject, trouble
from tests.crash.moving import MOVING, kills
from tests.crash.trip import Trip
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
EVERY = {
    "qmail-send": 173,
    "qmail-clean": 61,
    "qmail-queued": 37,
    "qmail-queue": 11,
    "qmail-local": 7,
    "qmail-lspawn": 53,
    "qmail-rspawn": 79,
}
BUGS_EVERY = {"qmail-send": 7, "qmail-lspawn": 11, "qmail-rspawn": 31}
DOORS_EVERY = {  # with half of the errors
    "qmail-inject": 23,
    "sendmail": 59,
    "forward": 17,
    "forward, piped": 37,
    "qmail-queued, clients": 151,
    "qmail-smtpd": 83,
    "qmail-smtpd, large": 47,
    "tcpserver": 173,
    "qmail-remote": 47,
    "qmail-rspawn, sending": 173,
    "qmail-lspawn, executing": 157,
    "qmail-lspawn, a program": 157,
    "qmail-local, forwarding": 61,
    "qmail-send, bouncing": 251,
    "qmail-rcptd": 199,
    "qmail-start": 71,
}
DEADLINE_S = 15.0
LONG = bool(os.environ.get("PYQMAIL_TESTS_LONG"))


@pytest.mark.parametrize("bugs", [False, True], ids=["faults", "bugs"])
@pytest.mark.parametrize("program", list(EVERY))
def test_nothing_is_lost_refused_or_stuck(program: str, bugs: bool) -> None:
    every = BUGS_EVERY.get(program, 5) if bugs else EVERY[program]
    result = trouble(program, 1 if LONG else every, BUGS if bugs else ACTIONS)
    print(*result.lines(), sep="\n")
    assert result.faults >= 3
    assert not result.wrong, result.lines()


@pytest.mark.parametrize("program", list(DOORS_EVERY))
def test_nothing_is_lost_refused_or_stuck_at_the_doors(program: str) -> None:
    every = DOORS_EVERY[program]
    kinds = ((ACTIONS, 1), (BUGS, 1)) if LONG else ((ACTIONS[1::2], every), (BUGS, every // 2))
    results = in_tree(lambda bench: [inject(bench, program, step, actions) for actions, step in kinds])
    for result in results:
        print(*result.lines(), sep="\n")
    assert sum(result.faults for result in results) >= 5
    assert not any(result.wrong for result in results)


@pytest.mark.parametrize(("program", "points"), [("qmail-q xfer", 78), ("qmail-xferd", 64)])
def test_a_queue_that_moves_is_on_one_side_or_the_other_whoever_is_killed(program: str, points: int) -> None:
    every = 1 if LONG else 6

    def run(bench: Bench) -> list[Result]:
        result = Result(program)
        result.faults, result.wrong = kills(MOVING[program], bench, every)
        return [result]

    (result,) = in_tree(run)
    assert result.faults >= points // every - 5
    assert not result.wrong, result.lines()


def at_each_chance(program: str, trip: partial[Trip], least: int) -> None:
    """The fault at each chance in ``program``, of which there are ``least`` or more."""

    def run(bench: Bench) -> list[Result]:
        result = Result(program)
        for number in range(1, 40):
            fault = trip(number)
            wrong = PROGRAMS[program](bench, fault)
            if not fault.fired:
                break
            result.faults += 1
            result.wrong += [f"{fault}: {what}" for what in wrong]
        return [result]

    (result,) = in_tree(run)
    assert result.faults >= least
    assert not result.wrong, result.lines()


def test_a_report_that_finds_no_memory_is_made_later() -> None:
    at_each_chance("qmail-rspawn", partial(Trip, action="error", error=errno.ENOMEM, calls=("write",)), 2)


def test_a_spawner_that_cannot_report_does_not_stay() -> None:
    at_each_chance("qmail-lspawn", partial(Trip, action="error", error=errno.EIO, where="fcntl (1"), 2)


@pytest.mark.parametrize("program", ["forward, piped", "qmail-smtpd", "qmail-inject, large"])
def test_a_short_write_loses_no_part_of_the_message(program: str) -> None:
    at_each_chance(program, partial(Trip, action="short"), 2)


@pytest.mark.parametrize("where", ["control/conf-break", "bin/qmail-local", "fork ", "pidfd_open"])
def test_recipients_are_known_again_after_a_fault(where: str) -> None:
    at_each_chance("qmail-rcptd", partial(Trip, action="error", error=errno.EMFILE, where=where), 1)


@pytest.mark.parametrize("where", ["/dev/null", "fork ", "qmail-queued"])
def test_a_queue_service_that_cannot_start_is_started_again(where: str) -> None:
    at_each_chance("qmail-start", partial(Trip, action="error", error=errno.ENOMEM, where=where), 1)


def test_a_queue_service_that_is_killed_is_started_again() -> None:
    """Where qmail-start has started it, and nobody else would."""

    def children(pid: int) -> list[int]:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def run(bench: Bench) -> list[Result]:
        kept, wrong = bench.offspring(), []
        bench.restart.empty()
        pid = doors.start_all(bench, None)
        first = bench.connect(pid)
        (keeper,) = [child for child in children(pid) if os.getsid(child) == child]
        (service,) = children(keeper)
        os.kill(service, signal.SIGKILL)
        deadline = time.monotonic() + DEADLINE_S
        while children(keeper) in ([], [service]) and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        second = bench.connect(pid)
        if first is None or second is None:
            wrong.append(f"{first} and {second}")
        os.kill(keeper, signal.SIGTERM)
        while Path(f"/proc/{keeper}/task/{keeper}/children").read_text() and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        if client.connect(f"{bench.home}/run/qmail-queued.sock", 0) is not None:
            wrong.append("it goes on after TERM")
        bench.end_offspring(kept)
        return [Result("qmail-start", wrong=wrong)]

    (result,) = in_tree(run)
    assert not result.wrong


def test_without_a_descriptor_there_is_no_connection_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_arguments: object) -> None:
        raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.setattr(client, "Connection", none)
    assert client.connect(str(tmp_path / "socket"), 0) is None


def test_a_launcher_that_could_not_be_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    launcher = tmp_path / "bin/qmail-queue"
    launcher.write_text("a launcher")
    wait_for(lambda: Seen([str(launcher)]).settled(), "an age at which a change would be seen")
    answers = [None, "pyqmail.programs.qmail_queue"]
    monkeypatch.setattr(launch, "identify", lambda _path: answers.pop(0))
    assert not client.own_program(str(tmp_path), warm=True)
    assert client.own_program(str(tmp_path), warm=True)
    assert client.own_program(str(tmp_path), warm=True)  # and now it is known
