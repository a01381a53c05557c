"""qmail-send: the daemon that decides what is delivered, when, and what becomes of it (qmail-send(8)).

    fd 0  log, written            fd 5  requests to qmail-clean, written
    fd 1  commands to lspawn      fd 6  its answers
    fd 2  reports from lspawn
    fd 3  commands to rspawn
    fd 4  reports from rspawn

Everything is read from and written to the queue; what is in memory is only when to look again.  One selector loop
calls back for descriptors and signals; between its turns each part takes a bounded step.  Syncs wait in one
thread, the injection of bounces in another.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.send.background import Background
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.controls import Controls, read_controls
from pyqmail.send.delivery import ChannelPasses
from pyqmail.send.finish import Finisher
from pyqmail.send.log import Line, Log
from pyqmail.send.todo_pass import TodoPass
from pyqmail.spool import sweep
from pyqmail.spool.layout import Layout, read_layout
from pyqmail.spool.retry import TROUBLE_S, Schedule
from pyqmail.system.loop import Loop
from pyqmail.system.process import set_title

CHANNELS = ("local", "remote")
STARTED = 0
FATAL = 111
LOADED_PER_TURN = 200
SWEPT_PER_TURN = 100
SWEEP_S = 76431
SELECT_MAX_S = 86400


class CannotStart(Exception):
    """Start-up failed; the text is the rest of the log line."""


class Daemon:
    """Joins the parts; the loop's turn is here."""

    def __init__(self, layout: Layout, controls: Controls, environ: Mapping[bytes, bytes], log: Line) -> None:
        self.controls = controls
        self.exiting = False
        self._layout = layout
        self._log = log
        self._serial = 0
        self._loop = loop = Loop()
        self._syncs = Background(loop)
        self._injections = Background(loop)
        cleaner = Cleaner(loop, 5, 6, self._cleaner_lost)
        self._channels = {
            name: ChannelPasses(name, loop, layout, self, self._syncs, log, commands=commands, reports=commands + 1)
            for name, commands in zip(CHANNELS, (1, 3), strict=True)
        }
        self._finisher = Finisher(layout, self._injections, cleaner, environ, log)
        self._todo = TodoPass(loop, layout, self._syncs, cleaner, self._accept, log)
        self._loading: Iterator[int] | None = sweep.waiting(layout)
        self._accepted: set[int] = set()  # while loading: messages that came through todo meanwhile
        self._failed_stat = Schedule()
        self._sweeping: Iterator[int | None] | None = None
        self._sweep_at = 0.0

    def run(self, limits: Sequence[int]) -> int:
        """Serve until told to exit."""
        for signum, act in (
            (signal.SIGTERM, self._terminate),
            (signal.SIGALRM, self._alarm),
            (signal.SIGHUP, self._reread),
        ):
            self._loop.add_signal(signum, act)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for channel, limit in zip(self._channels.values(), limits, strict=True):
            channel.start(limit)
        self._log(self.status())
        while not self._may_exit():
            self._loop.run_once(self._patience())
            self._turn()
        for channel in self._channels.values():
            channel.save_times()
        self._log(b"status: exiting")
        return STARTED

    # what a channel asks of us

    def next_serial(self) -> int:
        """The number of the next delivery; it counts from 1 and never starts again."""
        self._serial += 1
        return self._serial

    def status(self) -> bytes:
        """The status line."""
        local, remote = self._channels["local"], self._channels["remote"]
        return b"status: local %d/%d remote %d/%d%b" % (
            len(local.slots.used),
            local.limit,
            len(remote.slots.used),
            remote.limit,
            b" exitasap" if self.exiting else b"",
        )

    def channel_empty(self, name: str, number: int) -> None:
        """A channel of ``number`` is done: it is finished if the other one is."""
        other = self._layout.part("remote" if name == "local" else "local", number)
        try:
            if not sweep.absent(other):
                return
        except OSError:
            pass  # the finished list looks again
        self._finisher.schedule.add(number, int(time.time()))

    def spawner_lost(self) -> None:
        """Nothing can be delivered any more."""
        self.exiting = True

    # the turn

    def _may_exit(self) -> bool:
        if not self.exiting or not all(channel.idle for channel in self._channels.values()):
            return False
        return not self._injections.pending

    def _patience(self) -> float:
        if self.exiting:
            return SELECT_MAX_S  # reports, answers and signals decide from here on
        if self._loading is not None or self._sweeping is not None:
            return 0
        now = time.time()
        times = [channel.next_time() for channel in self._channels.values()]
        for schedule in (self._finisher.schedule, self._failed_stat):
            when = schedule.next_time()
            if when is not None:
                times.append(when)
        times.append(self._todo.next_time())
        times.append(self._sweep_at)
        wait = min(times) - now
        return 0 if wait <= 0 else min(wait + 0.01, SELECT_MAX_S)

    def _turn(self) -> None:
        if self.exiting:
            return
        now = time.time()
        self._todo.step(now, self.controls.routing)
        for channel in self._channels.values():
            channel.step(now)
        number = self._failed_stat.pop_due(int(now))
        if number is not None:
            self._load(number)
        self._finisher.step(now, self.controls)
        self._load_some()
        self._sweep_some(now)

    def _accept(self, number: int, channels: tuple[str, ...]) -> None:
        now = int(time.time())
        if self._loading is not None:
            self._accepted.add(number)
        for name in channels:
            self._channels[name].schedule.add(number, now)
        if not channels:
            self._finisher.schedule.add(number, now)

    # start: what waits already, a little per turn, so that new mail need not wait for it

    def _load_some(self) -> None:
        if self._loading is None:
            return
        for _ in range(LOADED_PER_TURN):
            try:
                number = next(self._loading)
            except StopIteration:
                self._loading = None
                self._accepted.clear()
                return
            except OSError:
                self._log(b"alert: unable to opendir info, sleeping...")
                self._loading = None
                self._loop.call_later(10, self._load_again)
                return
            if number not in self._accepted and not self._todo.holds(number):
                self._load(number)

    def _load_again(self) -> None:
        known = {number for channel in self._channels.values() for number, _ in channel.schedule.items()}
        self._accepted |= known
        self._loading = sweep.waiting(self._layout)

    def _load(self, number: int) -> None:
        """Schedule a message as its files say."""
        layout = self._layout
        try:
            if not sweep.absent(layout.todo(number)):
                return
            if sweep.absent(layout.mess(number)):
                self._set_aside(number)
                return
            times = {name: _modified(layout.part(name, number)) for name in CHANNELS}
        except OSError:
            self._log(b"warning: unable to stat %b; will try again later" % layout.relative("info", number).encode())
            self._failed_stat.add(number, int(time.time()) + TROUBLE_S)
            return
        for name, when in times.items():
            if when is not None:
                self._channels[name].schedule.add(number, when)
        if not any(when is not None for when in times.values()):
            self._finisher.schedule.add(number, int(time.time()))

    def _set_aside(self, number: int) -> None:
        # an inode that is used again would send a new body to the old recipients
        self._log(b"alert: info/%d/%d has no message, set aside" % (number % self._layout.split, number))
        try:
            sweep.set_aside(self._layout, number)
        except OSError:
            self._log(b"alert: unable to set aside info/%d/%d" % (number % self._layout.split, number))

    # the cleanup walk

    def _sweep_some(self, now: float) -> None:
        if self._sweeping is None:
            if now < self._sweep_at:
                return
            self._sweep_at = now + SWEEP_S
            self._sweeping = sweep.stale(self._layout, now)
        for _ in range(SWEPT_PER_TURN):
            try:
                number = next(self._sweeping)
            except StopIteration:
                self._sweeping = None
                return
            if number is not None:
                self._finisher.clean(number)

    # signals

    def _terminate(self) -> None:
        self.exiting = True

    def _alarm(self) -> None:
        for channel in self._channels.values():
            channel.schedule.all_due(int(time.time()))

    def _reread(self) -> None:
        try:
            self.controls = read_controls(self._layout.home)
        except ControlUnreadable as error:
            self._log(b"alert: unable to reread " + str(error).partition(":")[0].encode())

    def _cleaner_lost(self) -> None:
        self._log(b"alert: oh no! lost qmail-clean connection! dying...")
        self.exiting = True


def _modified(path: str) -> int | None:
    try:
        return int(os.stat(path).st_mtime)
    except FileNotFoundError:
        return None


def _start(environ: Mapping[bytes, bytes]) -> tuple[Layout, Controls, list[int]]:
    """The steps before the loop. Raises CannotStart."""
    home = home_of(environ)
    try:
        os.chdir(home)
    except OSError:
        raise CannotStart("unable to switch to home directory") from None
    try:
        controls = read_controls(home)
        layout = read_layout(home)
    except ControlUnreadable:
        raise CannotStart("unable to read controls") from None
    try:
        os.chdir(layout.queue)
    except OSError:
        raise CannotStart("unable to switch to queue directory") from None
    os.umask(0o077)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        mutex = os.open(layout.sendmutex, os.O_WRONLY)  # stays open for life: it is the lock
    except OSError:
        raise CannotStart("unable to open mutex") from None
    try:
        fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CannotStart("qmail-send is already running") from None
    return layout, controls, [_spawner_limit(fd) for fd in (2, 4)]


def _spawner_limit(fd: int) -> int:
    try:
        byte = os.read(fd, 1)
    except OSError:
        byte = b""
    if not byte:
        raise CannotStart("hath the daemon spawn no fire?")
    return byte[0]


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Run qmail-send on descriptors 0 to 6; 0 after SIGTERM, 111 if it cannot start."""
    log = Log(0).line
    try:
        layout, controls, limits = _start(environ)
    except CannotStart as trouble:
        log(b"alert: cannot start: " + str(trouble).encode())
        return FATAL
    set_title("qmail-send")
    return Daemon(layout, controls, environ, log).run(limits)
