"""Answers of the DNS that a worker of qmail-verifyd remembers for as long as they say, since much mail comes from few.

What nobody could say is asked anew each time. The memory is the worker's own and is gone with it.
"""

import time
from collections.abc import Callable, Sequence

from pyqmail.mailauth.lookups import LookUp, Question
from pyqmail.resolver import Found, SoftFailure

ANSWERS_MAX = 1000
SIZE_MAX = 4096  # bytes of the records of one answer; larger ones are asked for again
TTL_MAX_S = 300  # an answer may say a week: a mistake, or a forged one, is not to last


class Memory:
    """Answers until their time is over; of too many the oldest goes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[Question, tuple[float, Found]] = {}

    def before(self, look_up: LookUp) -> LookUp:
        """``look_up``, asked only for what is not remembered."""

        def remembering(questions: Sequence[Question]) -> list[Found]:
            found = {each: answer for each in questions if (answer := self._recall(each)) is not None}
            unknown = [each for each in questions if each not in found]
            for each, answer in zip(unknown, look_up(unknown) if unknown else (), strict=True):
                self._keep(each, answer)
                found[each] = answer
            return [found[each] for each in questions]

        return remembering

    def _recall(self, question: Question) -> Found | None:
        until, answer = self._known.get(question, (0.0, None))
        return answer if self._clock() < until else None

    def _keep(self, question: Question, answer: Found) -> None:
        self._known.pop(question, None)
        if isinstance(answer, SoftFailure) or not answer.ttl_s or _size(answer) > SIZE_MAX:
            return
        if len(self._known) >= ANSWERS_MAX:
            del self._known[next(iter(self._known))]
        self._known[question] = self._clock() + min(answer.ttl_s, TTL_MAX_S), answer


def _size(answer: Found) -> int:
    if isinstance(answer, Exception):
        return 0
    exchangers = (each.exchanger for each in answer.mx)
    records = (*answer.texts, *answer.addresses, *answer.names, *answer.associations, *exchangers)
    return sum(map(len, records)) + 64 * len(records)
