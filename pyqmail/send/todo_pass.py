"""The todo pass: new messages from todo/ into the channels, many to one sync (qmail-send(8); INTERNALS 3).

    found in todo/ -> prepared (files written) -> syncing (in the thread) -> asked of qmail-clean -> scheduled
                   -> offered (one recipient) -> delivered -> asked of qmail-clean -> finished
                                              -> anything else -> prepared, and so on

A message is in exactly one of these.  Up to BATCH are prepared and synced together; while one batch syncs, the next is
prepared.  A message that fails anywhere stays in todo/ and is found again by the next scan.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator

from pyqmail.log.events import Warn
from pyqmail.policy.classify import Routing
from pyqmail.send.batches import Batches
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.means import Means
from pyqmail.send.retry import TROUBLE_S
from pyqmail.send.todo_scan import TodoScan
from pyqmail.spool.preprocess import LongTodo, New, Prepared, PreprocessTrouble, examine, prepare, prepare_long
from pyqmail.system.typed import Protocol

Written = Callable[[bool], None]


class Receiver(Protocol):
    """Where new messages go."""

    def offer(self, new: New) -> bool:
        """Take a message that is in S4 still, or refuse it."""

    def comes_held(self, number: int, birth: int) -> None:
        """``number`` is held on the node that it comes from; its files are not written yet."""

    def accept(self, number: int, channels: tuple[str, ...]) -> None:
        """Take a message that is in S5 now."""

    def end_fresh(self, number: int) -> None:
        """A message that was offered is delivered, and its todo/N has gone."""


class TodoPass:
    """Finds, prepares, syncs and hands on new messages."""

    def __init__(self, means: Means, cleaner: Cleaner, receiver: Receiver) -> None:
        self._means = means
        self._cleaner = cleaner
        self._receiver = receiver
        self._scan = TodoScan(means)
        self._batches = Batches(means, cleaner, self)
        self._long: deque[int] = deque()  # to be prepared in slices, the first of them now
        self._slices: Iterator[Prepared | None] | None = None
        self._troubled: set[int] = set()  # may have left files in info/, local/ and remote/
        self._to_write: dict[int, tuple[New, Written]] = {}
        self._stopping = False

    def holds(self, number: int) -> bool:
        """Whether ``number`` is on its way through this pass."""
        return self._scan.holds(number)

    def __len__(self) -> int:
        """How many messages are on their way."""
        return len(self._scan)

    def next_time(self) -> float:
        """When there is something to do for ``step``."""
        if self._long:
            return 0
        when = self._scan.next_time()
        return float("inf") if when == 0 and self._batches.room <= 0 else when

    def step(self, now: float) -> None:
        """Prepare as much as one batch and start its sync if none is running."""
        routing = self._means.controls.routing
        self._scan.begin(now)
        for _ in range(self._batches.room):
            if not self._scan.under_way:
                break
            number = self._scan.take()
            if number is not None:
                self._prepare(number, routing)
        if self._long:
            self._prepare_slice(routing)
        self._batches.start()

    def _prepare(self, number: int, routing: Routing) -> None:
        means = self._means
        try:
            new = examine(means.layout, number, routing, means.log)
            birth = self._learn(number, new.todo.facts)
            if not (self._scan.first or number in self._troubled or number in means.facts) and self._receiver.offer(
                new
            ):
                new.log(means.log)
            else:
                self._batches.add(prepare(means.layout, new, means.log, birth))
        except LongTodo:
            self._long.append(number)
        except PreprocessTrouble as trouble:
            self.failed(number, trouble.warning)
        except MemoryError:
            self._troubled.add(number)
            self._scan.give_back(number)
            self._scan.want()
            raise

    def _learn(self, number: int, token: bytes) -> int | None:
        """Learn of its facts; when it was queued first, if that was on another node. Raises PreprocessTrouble."""
        transfer = self._means.facts.arrived(number, token)
        if transfer is None:
            return None
        birth = min(transfer.birth, int(self._means.clock()))  # that node's clock may be ahead
        if transfer.held:
            self._receiver.comes_held(number, birth)
        return birth

    def _prepare_slice(self, routing: Routing) -> None:
        number = self._long[0]
        if self._slices is None:
            means = self._means
            learn = functools.partial(self._learn, number)
            self._slices = prepare_long(means.layout, number, routing, means.log, learn)
        try:
            prepared = next(self._slices)
        except PreprocessTrouble as trouble:
            self.failed(number, trouble.warning)
        else:
            if prepared is None:
                return
            self._batches.add(prepared)
        self._slices = None
        self._long.popleft()

    def write(self, new: New, written: Written) -> None:
        """A message that was offered gets its files after all: ``written(True)`` once it is in S5.

        Trouble is tried again later; once this pass stops, such a message stays in todo/: ``written(False)``.
        """
        self._to_write[new.number] = (new, written)
        self._write(new)

    def stop(self) -> None:
        """Nothing that fails from now on is tried again."""
        self._stopping = True
        for number in self._to_write.keys() - self._batches.numbers:
            self._write_later(number)

    def _write(self, new: New) -> None:
        if new.number not in self._to_write:
            return
        try:
            self._batches.add(prepare(self._means.layout, new, None, new.born))
        except PreprocessTrouble as trouble:
            self._means.log(trouble.warning)
            self._write_later(new.number)
            return
        self._batches.start()

    def _write_later(self, number: int) -> None:
        new, written = self._to_write[number]
        if self._stopping:
            del self._to_write[number]
            written(False)
        else:
            self._means.loop.call_later(TROUBLE_S, lambda: self._write(new))

    def delivered(self, number: int) -> None:
        """A message that was offered is delivered: its envelope can go, and then the message."""

        def answered(done: bool) -> None:
            if done:
                self._leave(number)
                self._receiver.end_fresh(number)
                return
            self._means.log(Warn(b"qmail-clean unable to clean up todo/%d" % number))
            self._means.loop.call_later(TROUBLE_S, lambda: self.delivered(number))

        self._cleaner.ask(b"todo", number, answered)

    def committed(self, prepared: Prepared) -> None:
        """The files of a message are durable, and its todo/N has gone."""
        number = prepared.number
        self._leave(number)
        if number in self._to_write:
            self._to_write.pop(number)[1](True)
        else:
            self._receiver.accept(number, prepared.channels)

    def failed(self, number: int, trouble: Warn) -> None:
        """A message stays in todo/, for the next scan."""
        self._means.log(trouble)
        if number in self._to_write:
            self._write_later(number)
        else:
            self._troubled.add(number)
            self._scan.give_back(number)

    def _leave(self, number: int) -> None:
        self._troubled.discard(number)
        self._scan.left(number)
