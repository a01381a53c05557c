"""What a worker of qmail-verifyd remembers of the DNS: as long as an answer says, and never that nobody answered."""

from collections.abc import Sequence

import pytest

from pyqmail.mailauth.lookups import Question
from pyqmail.mailauth.memory import ANSWERS_MAX, TTL_MAX_S, Memory
from pyqmail.protocol.dns import Answer, Code, Kind
from pyqmail.resolver import Found, HardFailure, SoftFailure

A: Question = (b"a.example", Kind.TXT)
B: Question = (b"b.example", Kind.TXT)


def text(ttl_s: int, size: int = 1) -> Answer:
    return Answer(Code.NOERROR, truncated=False, count=1, texts=(b"x" * size,), ttl_s=ttl_s)


class Desk:
    """A memory before answers that are told, with a clock of its own; ``asked`` are the questions that got through."""

    def __init__(self, *answers: Found) -> None:
        self.now_s = 1000.0
        self.asked: list[list[Question]] = []
        self._answers = list(answers)
        self.look_up = Memory(lambda: self.now_s).before(self._look_up)

    def _look_up(self, questions: Sequence[Question]) -> list[Found]:
        self.asked.append(list(questions))
        return [self._answers.pop(0) for _ in questions]


@pytest.mark.parametrize("answer", [text(60), HardFailure("no such name", no_name=True, ttl_s=60)], ids=["yes", "no"])
def test_an_answer_is_good_for_its_time(answer: Found) -> None:
    desk = Desk(answer, text(60))
    assert desk.look_up([A]) == [answer]
    desk.now_s += 59
    assert desk.look_up([A]) == [answer]
    assert desk.asked == [[A]]
    desk.now_s += 1
    assert desk.look_up([A]) == [text(60)]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(SoftFailure("silence"), id="nobody could say"),
        pytest.param(text(0), id="an answer for now"),
        pytest.param(HardFailure("no data"), id="a denial without a SOA"),
        pytest.param(text(60, 5000), id="a large answer"),
    ],
)
def test_what_is_not_to_be_remembered_is_asked_again(answer: Found) -> None:
    desk = Desk(answer, text(60))
    assert desk.look_up([A]) == [answer]
    assert desk.look_up([A]) == [text(60)]


def test_a_week_is_five_minutes() -> None:
    desk = Desk(text(604800), text(604800))
    desk.look_up([A])
    desk.now_s += TTL_MAX_S
    desk.look_up([A])
    assert desk.asked == [[A], [A]]


def test_only_what_is_unknown_is_asked_and_answers_stand_in_their_order() -> None:
    desk = Desk(text(60, 1), text(60, 2))
    desk.look_up([B])
    assert desk.look_up([A, B]) == [text(60, 2), text(60, 1)]
    assert desk.asked == [[B], [A]]


def test_of_too_many_answers_the_oldest_goes() -> None:
    names = [(b"%d.example" % number, Kind.TXT) for number in range(ANSWERS_MAX + 1)]
    desk = Desk(*[text(60)] * (ANSWERS_MAX + 2))
    for name in names:
        desk.look_up([name])
    desk.look_up(names[1:])
    assert len(desk.asked) == len(names)
    desk.look_up(names[:1])
    assert desk.asked[-1] == names[:1]
