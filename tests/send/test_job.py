"""The states of a message in one channel."""

import pytest

from pyqmail.formats.todo import Todo
from pyqmail.send.job import GIVE_UP, Job, JobState, judge
from pyqmail.spool.preprocess import New

NEW = New(7, 1, Todo(b"", (b"x",), 1, 1), 0, {})


def job(**values: object) -> Job:
    made = Job(7, b"joe@a.example", 0, 100, dying=False)
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({}, JobState.PASSING),
        ({"open": 1}, JobState.PASSING),
        ({"passing": False, "open": 1, "held": 1}, JobState.OPEN),
        ({"passing": False, "held": 1}, JobState.HELD),
        ({"passing": False}, JobState.SETTLED),
        ({"passing": False, "fresh": NEW}, JobState.FRESH),
    ],
)
def test_the_state_is_what_holds_it(values: dict[str, object], state: JobState) -> None:
    assert job(**values).state is state


def test_it_is_finished_when_the_whole_list_is_done() -> None:
    assert job(at_end=True).finished
    assert not job(at_end=True, not_done=1).finished and not job().finished


def test_only_a_pass_that_started_nothing_waits_as_a_number() -> None:
    skipped = [(b"big.example", 0)]
    assert job(skipped=skipped, at_end=True).only_skipped
    assert not job(skipped=skipped, at_end=True, started=True).only_skipped
    assert not job(skipped=skipped).only_skipped and not job(at_end=True).only_skipped


@pytest.mark.parametrize(
    ("dying", "letter", "judged"),
    [(False, b"Z", (b"Z", b"t")), (True, b"Z", (b"D", b"t" + GIVE_UP)), (True, b"K", (b"K", b"t"))],
)
def test_a_message_that_is_too_old_is_deferred_no_more(dying: bool, letter: bytes, judged: tuple[bytes, bytes]) -> None:
    assert judge(job(dying=dying), letter, b"t") == judged
