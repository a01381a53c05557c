"""The todo pass: new messages from todo/ into the channels, many to one sync (qmail-send(8); INTERNALS 3).

    found in todo/ -> prepared (files written) -> syncing (in the thread) -> asked of qmail-clean -> scheduled
                   -> offered (one recipient) -> delivered -> asked of qmail-clean -> finished
                                              -> anything else -> prepared, and so on

A message is in exactly one of these.  Up to BATCH are prepared and synced together; while one batch syncs, the next is
prepared.  A message that fails anywhere stays in todo/ and is found again by the next scan.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from pyqmail.policy.classify import Routing
from pyqmail.send.background import Background
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.log import Line
from pyqmail.spool import sweep
from pyqmail.spool.layout import Layout
from pyqmail.spool.preprocess import (
    LongTodo,
    New,
    Prepared,
    PreprocessTrouble,
    examine,
    make_durable,
    prepare,
    prepare_long,
)
from pyqmail.spool.retry import TROUBLE_S
from pyqmail.system.loop import Loop

BATCH = 32
SCAN_S = 1500  # a scan even if nobody pulls the trigger


class Accept(Protocol):
    """Takes a message that is in S5 now: its number and channels."""

    def __call__(self, number: int, channels: tuple[str, ...]) -> None: ...


class Offer(Protocol):
    """Takes a message that is in S4 still, or refuses it."""

    def __call__(self, new: New) -> bool: ...


Written = Callable[[bool], None]


class Trigger:
    """The FIFO lock/trigger: readable when pulled, never read, but closed and opened anew before a scan.

    A pull between the reopening and the end of the scan stays pending, so none is lost.
    """

    def __init__(self, loop: Loop, path: str, pulled: Callable[[], None]) -> None:
        self._loop = loop
        self._path = path
        self._pulled = pulled
        self._fds: tuple[int, ...] = ()
        self.rearm()

    def rearm(self) -> None:
        """Forget the pulls so far; the caller scans next."""
        if self._fds:
            self._loop.remove_reader(self._fds[0])
        for fd in self._fds:
            os.close(fd)
        self._fds = ()
        try:
            reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        self._fds = (reader,)
        try:
            # our own write end: a FIFO without writers would select readable for ever on some kernels
            self._fds = (reader, os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            self._loop.add_reader(reader, self._pulled)
        except OSError:
            return


class TodoPass:
    """Finds, prepares, syncs and hands on new messages."""

    def __init__(
        self,
        loop: Loop,
        layout: Layout,
        background: Background,
        cleaner: Cleaner,
        *,
        offer: Offer,
        accept: Accept,
        finish: Callable[[int], None],
        log: Line,
    ) -> None:
        self._loop = loop
        self._offer = offer
        self._finish = finish
        self._layout = layout
        self._background = background
        self._cleaner = cleaner
        self._accept = accept
        self._log = log
        self._in_flight: set[int] = set()
        self._left: set[int] = set()  # numbers that left todo/ while it is being scanned
        self._to_write: dict[int, tuple[New, Written]] = {}
        self._stopping = False
        self._aside: set[int] = set()
        self._scan: Iterator[int] | None = None
        self._wanted = True
        self._first = True
        self._scan_at = 0.0
        self._ready: list[Prepared] = []
        self._batch: list[Prepared] = []  # syncing
        self._asked: set[int] = set()  # of qmail-clean
        self._troubled: set[int] = set()  # may have left files in info/, local/ and remote/
        self._long: deque[int] = deque()  # to be prepared in slices, the first of them now
        self._slices: Iterator[Prepared | None] | None = None
        self._trigger = Trigger(loop, layout.trigger, self._pulled)

    def holds(self, number: int) -> bool:
        """Whether ``number`` is on its way through this pass."""
        return number in self._in_flight

    def __len__(self) -> int:
        """How many messages are on their way."""
        return len(self._in_flight)

    def next_time(self) -> float:
        """When there is something to do for ``step``."""
        if self._long:
            return 0
        if self._scan is not None or self._wanted:
            return float("inf") if self._full() else 0
        return self._scan_at

    def step(self, now: float, routing: Routing) -> None:
        """Prepare as much as one batch and start its sync if none is running."""
        if self._scan is None and (self._wanted or now >= self._scan_at):
            self._begin(now)
        if self._scan is not None and not self._full():
            self._fill(routing)
        if self._long:
            self._prepare_slice(routing)
        self._start_sync()

    def _prepare_slice(self, routing: Routing) -> None:
        number = self._long[0]
        if self._slices is None:
            self._slices = prepare_long(self._layout, number, routing, self._log)
        try:
            prepared = next(self._slices)
        except PreprocessTrouble as trouble:
            self._failed(number, trouble.text)
        else:
            if prepared is None:
                return
            self._ready.append(prepared)
        self._slices = None
        self._long.popleft()

    def _pulled(self) -> None:
        self._wanted = True
        self._trigger.rearm()

    def _begin(self, now: float) -> None:
        if now >= self._scan_at:
            self._trigger.rearm()
        self._wanted = False
        self._left.clear()
        self._scan_at = now + SCAN_S
        self._scan = sweep.new(self._layout)

    def _full(self) -> bool:
        return len(self._ready) >= BATCH

    def _fill(self, routing: Routing) -> None:
        assert self._scan is not None
        for _ in range(BATCH - len(self._ready)):
            try:
                number = next(self._scan)
            except StopIteration:
                self._scan = None
                self._first = False
                return
            except OSError:
                self._log(b"alert: unable to opendir todo, sleeping...")
                self._scan = None
                self._scan_at = min(self._scan_at, self._scan_at - SCAN_S + 10)
                return
            if number in self._in_flight or number in self._left or number in self._aside:
                continue
            if not self._orphan(number):
                self._prepare(number, routing)

    def _orphan(self, number: int) -> bool:
        """Set aside an envelope whose message is gone, at start only: later it is a passing trouble."""
        try:
            if not self._first or not sweep.without_message(self._layout, number):
                return False
        except OSError:
            return False
        self._aside.add(number)
        try:
            sweep.set_todo_aside(self._layout, number)
        except OSError:  # todo/ belongs to qmailq: then it stays, and its number cannot be taken again
            self._log(b"alert: todo/%d has no message, skipped" % number)
        else:
            self._log(b"alert: todo/%d has no message, set aside" % number)
        return True

    def _prepare(self, number: int, routing: Routing) -> None:
        self._in_flight.add(number)
        try:
            new = examine(self._layout, number, routing, self._log)
            if not self._first and number not in self._troubled and self._offer(new):
                new.log(self._log)
            else:
                self._ready.append(prepare(self._layout, new, self._log))
        except LongTodo:
            self._long.append(number)
        except PreprocessTrouble as trouble:
            self._failed(number, trouble.text)
        except MemoryError:
            self._troubled.add(number)
            self._in_flight.discard(number)
            self._wanted = True
            raise

    def write(self, new: New, written: Written) -> None:
        """A message that was offered gets its files after all: ``written(True)`` once it is in S5.

        Trouble is tried again later; once this pass stops, such a message stays in todo/: ``written(False)``.
        """
        self._to_write[new.number] = (new, written)
        self._write(new)

    def stop(self) -> None:
        """Nothing that fails from now on is tried again."""
        self._stopping = True
        at_work = {prepared.number for prepared in (*self._ready, *self._batch)}
        for number in self._to_write.keys() - at_work - self._asked:
            self._write_later(number)

    def _write(self, new: New) -> None:
        if new.number not in self._to_write:
            return
        try:
            self._ready.append(prepare(self._layout, new, None))
        except PreprocessTrouble as trouble:
            self._log(trouble.text)
            self._write_later(new.number)
            return
        self._start_sync()

    def _write_later(self, number: int) -> None:
        new, written = self._to_write[number]
        if self._stopping:
            del self._to_write[number]
            written(False)
        else:
            self._loop.call_later(TROUBLE_S, lambda: self._write(new))

    def delivered(self, number: int) -> None:
        """A message that was offered is delivered: its envelope can go, and then the message."""

        def answered(done: bool) -> None:
            if done:
                self._leave(number)
                self._finish(number)
                return
            self._log(b"warning: qmail-clean unable to clean up todo/%d" % number)
            self._loop.call_later(TROUBLE_S, lambda: self.delivered(number))

        self._cleaner.ask(b"todo", number, answered)

    def _leave(self, number: int) -> None:
        self._in_flight.discard(number)
        self._troubled.discard(number)
        self._left.add(number)

    def _start_sync(self) -> None:
        if self._batch or not self._ready:
            return
        batch = self._batch = self._ready
        self._ready = []
        layout = self._layout

        def sync() -> Callable[[], None]:
            answers = make_durable(layout, batch)
            return lambda: self._synced(batch, answers)

        self._background.submit(sync)

    def _synced(self, batch: list[Prepared], answers: list[bytes | None]) -> None:
        self._batch = []
        self._start_sync()
        for prepared, trouble in zip(batch, answers, strict=True):
            if trouble is None:
                self._asked.add(prepared.number)
                self._cleaner.ask(b"todo", prepared.number, self._cleaned(prepared))
            else:
                self._failed(prepared.number, trouble)

    def _cleaned(self, prepared: Prepared) -> Callable[[bool], None]:
        def answered(done: bool) -> None:
            number = prepared.number
            self._asked.discard(number)
            if not done:
                self._failed(number, b"warning: qmail-clean unable to clean up todo/%d" % number)
                return
            self._leave(number)
            if number in self._to_write:
                self._to_write.pop(number)[1](True)
            else:
                self._accept(number, prepared.channels)

        return answered

    def _failed(self, number: int, trouble: bytes) -> None:
        self._log(trouble)
        if number in self._to_write:
            self._write_later(number)
        else:
            self._troubled.add(number)
            self._in_flight.discard(number)
