"""The messages of the queue as the status page shows them: read on demand, and no more often than it is cheap."""

import threading
import time
from dataclasses import dataclass

from pyqmail.look.apart import Apart, Lost, Slow
from pyqmail.look.overview import Row

PATIENCE_S = 60.0
FIRST_S = 5.0  # that a page waits for the first look
EVERY_S = 10.0  # between two looks
SHARE = 20  # a look is made again after so many times its own duration


@dataclass(frozen=True, slots=True)
class QueueState:
    """``whole``: how many messages there are, of which ``rows`` may be a part; ``error``: why nothing is known."""

    whole: int = 0
    rows: tuple[Row, ...] = ()
    held_domains: tuple[str, ...] = ()
    at: float = 0.0
    error: str = "the queue is being read"


def parse_queue(answer: object, at: float) -> QueueState:
    """The answer of QueueWatcher. Raises ValueError."""
    match answer:
        case {"error": str(error)}:
            return QueueState(at=at, error=error)
        case {"whole": int(whole), "rows": list(rows), "held": list(held)}:
            return QueueState(whole, tuple(map(_row, rows)), tuple(map(str, held)), at, "")
    raise ValueError("no queue")


def _row(value: object) -> Row:
    match value:
        case [int(number), str(state), int() | float() as age, int(size), str(sender), list(domains), *more]:
            match more:
                case [int(left), int(attempts), int() | float() | None as due, str(reply)]:
                    names = tuple(map(str, domains))
                    return Row(number, state, age, size, sender, names, left, attempts, due, reply)
    raise ValueError("no message")


class QueueLook:
    """Looks at the queue in a thread while somebody asks."""

    def __init__(self, queue: Apart) -> None:
        self._queue = queue
        self._known = threading.Condition()
        self._state = QueueState()
        self._next_at = 0.0
        self._looking = False

    def state(self) -> QueueState:
        """What is known by now; a look begins if there is need for one."""
        with self._known:
            if not self._looking and time.monotonic() >= self._next_at:
                self._looking = True
                threading.Thread(target=self._look, daemon=True).start()
            if not self._state.at:
                self._known.wait(FIRST_S)
            return self._state

    def look_again(self) -> None:
        """Something has changed: the next who asks waits for a new look."""
        with self._known:
            self._state = QueueState()
            self._next_at = 0.0

    def _look(self) -> None:
        began = time.monotonic()
        try:
            state = parse_queue(self._queue.ask("queue", PATIENCE_S), time.time())
        except (Lost, Slow, ValueError) as error:
            state = QueueState(at=time.time(), error=str(error))
        took = time.monotonic() - began
        with self._known:
            self._state = state
            self._looking = False
            self._next_at = time.monotonic() + max(EVERY_S, SHARE * took)
            self._known.notify_all()
