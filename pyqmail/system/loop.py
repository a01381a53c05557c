"""The loop of the long-lived programs: descriptors, timers and signals, one callback at a time.

epoll itself and not the module selectors, which spends as much on each turn again: it makes a list of named tuples.
"""

import _signal  # whose wrapper's enums would touch, and so copy, pages in each process that has just been forked
import heapq
import os
import select
import time
from collections.abc import Callable
from types import FrameType

Callback = Callable[[], None]


class Timer:
    """A pending call; ``cancel`` it or let it run once."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback | None) -> None:
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        """The call will not be made."""
        self.callback = None

    def __lt__(self, other: "Timer") -> bool:
        return self.when < other.when


class _Watch:
    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader: Callback | None = None
        self.writer: Callback | None = None

    def mask(self) -> int:
        return (select.EPOLLIN if self.reader else 0) | (select.EPOLLOUT if self.writer else 0)


class Loop:
    """Waits for descriptors, timers (monotonic seconds) and signals, and calls back."""

    def __init__(self) -> None:
        self._epoll = select.epoll()  # closed by exec
        self._watches: dict[int, _Watch] = {}
        self._timers: list[Timer] = []
        self._before_wait: list[Callback] = []
        self._signals: dict[int, Callback] = {}
        self._pending: dict[int, FrameType | None] = {}
        self._failed = 0  # the signal whose callback raised; it is called once more, for nobody sends TERM twice
        self._wakeup: tuple[int, int] | None = None
        self._stopped = False

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``fd`` is readable or at its end. EPERM for what cannot be watched."""
        self._set(fd, reader=callback)

    def add_shared_reader(self, fd: int, callback: Callback) -> None:
        """The same for ``fd`` that other processes wait for too: of all that wait like this one is woken, the first."""
        watch = _Watch()
        watch.reader = callback
        try:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        except FileExistsError:  # its end was interrupted the last time; this kind cannot be modified
            self._epoll.unregister(fd)
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._watches[fd] = watch

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``fd`` takes bytes or is broken."""
        self._set(fd, writer=callback)

    def remove_reader(self, fd: int) -> None:
        """Stop watching ``fd`` for reading; no error when it was not watched. Call it before closing ``fd``."""
        watch = self._watches.get(fd)
        if watch is not None and watch.reader is not None:
            watch.reader = None
            self._apply(fd, watch)

    def remove_writer(self, fd: int) -> None:
        """Stop watching ``fd`` for writing; no error when it was not watched. Call it before closing ``fd``."""
        watch = self._watches.get(fd)
        if watch is not None and watch.writer is not None:
            watch.writer = None
            self._apply(fd, watch)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Call ``callback`` once, ``seconds`` from now."""
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def before_wait(self, callback: Callback) -> None:
        """Call ``callback`` once, before the loop next waits: what gathers until then goes out in one piece."""
        self._before_wait.append(callback)

    def add_signal(self, signum: int, callback: Callback) -> None:
        """Call ``callback`` from the loop, not from the handler, after ``signum`` has come."""
        if self._wakeup is None:
            self._wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            _signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
            self.add_reader(self._wakeup[0], self._drain_wakeup)
        self._signals[signum] = callback
        _signal.signal(signum, self._pending.setdefault)  # (number, frame)

    def stop(self) -> None:
        """Make ``run`` return after the current callbacks."""
        self._stopped = True

    def run(self) -> None:
        """Serve until ``stop``."""
        self._stopped = False
        while not self._stopped:
            self.run_once()

    def run_once(self, timeout: float | None = None) -> None:
        """Wait at most ``timeout`` seconds (None: until something happens) and make the calls that are due."""
        self._send_out()
        watches = self._watches
        events = self._epoll.poll(self._patience(timeout), len(watches) or 1)
        # looked up before the first call: that may close a descriptor, and open another under its number
        ready = [(watches.get(fd), event) for fd, event in events]
        while self._pending:  # first: what a signal asks for holds for whatever came after it
            signum, _frame = self._pending.popitem()
            try:
                self._signals[signum]()
            except Exception:
                if self._failed != signum:
                    self._failed = signum
                    self._pending[signum] = None
                raise
            self._failed = 0
        for watch, event in ready:  # the end of a connection is for whoever watches
            if watch is None:
                continue
            if event & ~select.EPOLLOUT and watch.reader is not None:
                watch.reader()
            if event & ~select.EPOLLIN and watch.writer is not None:
                watch.writer()
        if self._timers:
            self._run_timers()
        self._send_out()

    def close(self) -> None:
        """Give back the loop's own descriptors."""
        if self._wakeup is not None:
            _signal.set_wakeup_fd(-1)
            os.close(self._wakeup[0])
            os.close(self._wakeup[1])
            self._wakeup = None
        self._epoll.close()

    def _send_out(self) -> None:
        while self._before_wait:
            self._before_wait.pop(0)()

    def _patience(self, timeout: float | None) -> float | None:
        if self._pending or self._stopped:
            return 0
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        if self._timers:
            wait = max(0.0, self._timers[0].when - time.monotonic())
            return wait if timeout is None else min(wait, timeout)
        return timeout

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                callback()

    def _drain_wakeup(self) -> None:
        assert self._wakeup is not None
        try:
            os.read(self._wakeup[0], 4096)
        except BlockingIOError:
            pass

    def _set(self, fd: int, *, reader: Callback | None = None, writer: Callback | None = None) -> None:
        watch = self._watches.get(fd)
        if watch is None or not watch.mask():
            self._begin(fd, reader, writer, again=watch is not None)
            return
        before = watch.mask()
        watch.reader = reader or watch.reader
        watch.writer = writer or watch.writer
        if watch.mask() != before:
            self._epoll.modify(fd, watch.mask())

    def _begin(self, fd: int, reader: Callback | None, writer: Callback | None, *, again: bool) -> None:
        """Watch ``fd``. ``again``: its end was interrupted the last time, and whether epoll still has it is unknown."""
        watch = _Watch()
        watch.reader, watch.writer = reader, writer
        try:
            self._epoll.register(fd, watch.mask())
        except FileExistsError:
            if not again:
                raise
            self._epoll.modify(fd, watch.mask())
        self._watches[fd] = watch

    def _apply(self, fd: int, watch: _Watch) -> None:
        if watch.mask():
            self._epoll.modify(fd, watch.mask())
        else:
            del self._watches[fd]
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # it is closed already
