"""The processes that qmail-authd has passwords checked in: which of them stay, how long, and what their ends mean."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from pyqmail.login import check_workers, checking
from pyqmail.login.answer import Answer
from pyqmail.login.check_workers import CheckWorkers
from pyqmail.protocol.sasl import Credentials
from pyqmail.system.loop import Loop

DEADLINE_S = 30
ANSWERS = {b"right": Answer.YES, b"wrong": Answer.NO}


class Place:
    """A service's workers, in which a password says what the answer is; ``pids``: those that were forked."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.loop = Loop()
        self.workers = CheckWorkers(self.loop, "/nowhere", single_user=False)

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline
            self.loop.run_once(0.1)

    def ask(self, *secrets: bytes, user: bytes = b"ann") -> list[Answer]:
        """The answers to questions that are asked together, in the order in which they come."""
        answers: list[Answer] = []
        for secret in secrets:
            self.workers.ask(Credentials(b"plain", user, secret), b"192.0.2.7", answers.append)
        self.until(lambda: len(answers) == len(secrets))
        return answers

    def ended(self) -> bool:
        """Whether no worker that was forked is there any more, not even to be waited for."""
        return not any(os.path.exists(f"/proc/{pid}") for pid in self.pids)


def answer(_home: str, credentials: Credentials, _ip: bytes, *, single_user: bool) -> Answer:
    if credentials.secret == b"crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if credentials.secret == b"hang":
        time.sleep(DEADLINE_S)
    return ANSWERS.get(credentials.secret, Answer.LATER)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made, fork = Place(), os.fork

    def counted() -> int:
        pid = fork()
        made.pids.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", counted)
    monkeypatch.setattr(checking, "check", answer)
    monkeypatch.setattr(checking, "prepare", lambda home: None)
    yield made
    made.loop.close()
    for pid in made.pids:
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_who_has_said_yes_of_the_system_is_asked_again(place: Place) -> None:
    assert [place.ask(b"right") for _ in range(3)] == [[Answer.YES]] * 3
    assert len(place.pids) == 1


@pytest.mark.parametrize("secret", [b"wrong", b"trouble", b"crash"])
def test_any_other_answer_is_the_last(place: Place, secret: bytes) -> None:
    place.ask(b"right")
    assert place.ask(secret) == [ANSWERS.get(secret, Answer.LATER)]
    place.until(place.ended)
    assert place.ask(b"right") == [Answer.YES]
    assert len(place.pids) == 2


def test_a_name_with_a_domain_has_a_process_of_its_own(place: Place) -> None:
    place.ask(b"right")
    assert place.ask(b"right", user=b"ann@v.example") == [Answer.YES]
    assert len(place.pids) == 2
    place.until(lambda: not os.path.exists(f"/proc/{place.pids[1]}"))
    assert place.ask(b"right") == [Answer.YES]
    assert len(place.pids) == 2


def test_questions_at_once_are_looked_at_at_once(place: Place) -> None:
    answers = place.ask(b"right", b"wrong", b"right")
    assert sorted(one.value for one in answers) == [b"N", b"Y", b"Y"]
    assert len(place.pids) == 3


def test_a_worker_ends_after_so_many_questions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_workers, "QUESTIONS_MAX", 2)
    assert [place.ask(b"right") for _ in range(5)] == [[Answer.YES]] * 5
    assert len(place.pids) == 3


def test_a_worker_ends_when_it_has_had_nothing_to_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_workers, "IDLE_S", 0.2)
    place.ask(b"right", b"right")
    place.until(place.ended)
    assert place.ask(b"right") == [Answer.YES]


def test_a_worker_that_was_killed_while_it_waited_is_nobody_s_trouble(place: Place) -> None:
    place.ask(b"right")
    os.kill(place.pids[0], signal.SIGKILL)
    os.waitid(os.P_PID, place.pids[0], os.WEXITED | os.WNOWAIT)
    assert place.ask(b"right") == [Answer.YES]
    place.until(lambda: not os.path.exists(f"/proc/{place.pids[0]}"))


def test_a_check_that_hangs_is_ended_by_the_kernel(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_workers, "CHECK_S", 1)
    assert place.ask(b"hang") == [Answer.LATER]
    place.until(place.ended)


def test_time_does_not_run_for_who_waits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_workers, "CHECK_S", 1)
    place.ask(b"right")
    place.loop.call_later(1.3, place.loop.stop)
    place.loop.run()
    assert place.ask(b"right") == [Answer.YES]
    assert len(place.pids) == 1


def test_workers_end_with_the_service(place: Place) -> None:
    place.ask(b"right")
    place.workers._idle[0].line.close()  # as the end of the service does
    os.waitid(os.P_PID, place.pids[0], os.WEXITED | os.WNOWAIT)
