"""qmail-send: the daemon that decides what is delivered, when, and what becomes of it (qmail-send(8)).

    fd 0  log, written            fd 5  requests to qmail-clean, written
    fd 1  commands to lspawn      fd 6  its answers
    fd 2  reports from lspawn
    fd 3  commands to rspawn
    fd 4  reports from rspawn

Everything is read from and written to the queue; what is in memory is only when to look again.  One selector loop
calls back for descriptors and signals; between its turns each part takes a bounded step.  Syncs wait in one
thread; nothing forks once it runs.
"""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of
from pyqmail.formats.logline import safe_words
from pyqmail.intake.background import BackgroundInjections
from pyqmail.send.background import Background
from pyqmail.send.bugs import describe_bug
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.control_socket import ControlSocket
from pyqmail.send.controls import Controls, read_controls
from pyqmail.send.delivery import ChannelPasses
from pyqmail.send.finish import Finisher
from pyqmail.send.holds import Orders, OrdersUnreadable, birth_of, read_orders
from pyqmail.send.interventions import NO_PLACE, Interventions
from pyqmail.send.log import Line, Log
from pyqmail.send.metrics import Counters, Gauges, MetricsFile, format_metrics
from pyqmail.send.offline import take_actions
from pyqmail.send.routing_feed import RoutingFeed, without_feed
from pyqmail.send.todo_pass import TodoPass
from pyqmail.spool import sweep
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout, read_layout
from pyqmail.spool.preprocess import New
from pyqmail.spool.retry import TROUBLE_S, Schedule
from pyqmail.spool.split import describe_odd, odd_directories
from pyqmail.system.loop import Loop
from pyqmail.system.process import set_title
from pyqmail.system.readiness import tell_ready

CHANNELS = ("local", "remote")
STARTED = 0
FATAL = 111
SLICE_S = 0.003  # how long a turn may read the queue found at start, or walk for stale messages
SLEEP_S = 10
REMOVAL_S = 2  # that qmail-clean may take at the end
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
        self._routing_feed = RoutingFeed(environ, loop, log)
        environ = without_feed(environ)
        self._syncs = Background(loop, log)
        self._injections = BackgroundInjections(loop, layout, environ)
        cleaner = Cleaner(loop, 5, 6, self._cleaner_lost)
        self._channels = {
            name: ChannelPasses(name, loop, layout, self, self._syncs, log, commands=commands, reports=commands + 1)
            for name, commands in zip(CHANNELS, (1, 3), strict=True)
        }
        self.counters = Counters()
        self.history = History(layout)
        self._started_at = time.time()
        self._notes = Background(loop, log)
        self._finisher = Finisher(
            layout, self._injections, self._syncs, cleaner, log, counters=self.counters, ended=self._ended
        )
        self.oversight = Interventions(
            loop, layout, self._channels, self._finisher.schedule, self, self._syncs, self.history, log
        )
        self._control = ControlSocket(loop, layout.send_socket, self._channels, self.oversight, log)
        self._metrics = MetricsFile(loop, self._syncs, self._measure, log)
        self._cleaner = cleaner
        self._exit_by = float("inf")
        self._todo = TodoPass(
            loop,
            layout,
            self._syncs,
            cleaner,
            offer=self._offer,
            accept=self._accept,
            finish=self._finisher.end_fresh,
            log=log,
        )
        self._loading: Iterator[int] | None = sweep.Waiting(layout)
        self._load_paused = False
        self._sleep_until = 0.0  # out of memory until then
        self._load_due = False  # SIGALRM came while loading
        self._accepted: set[int] = set()  # while loading: messages that came through todo meanwhile
        self._failed_stat = Schedule()
        self._unread: set[int] = set()  # the numbers in it; without those that came through todo meanwhile
        self._sweeping: Iterator[int | None] | None = None
        self._sweep_at = 0.0

    def gather(self, lines: Log) -> None:
        """Let the log gather the lines of a turn."""
        lines.gather(self._loop)

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
        self._take_orders()
        self._name_odd_directories()
        self._log(self.status())
        self._metrics.set_path(self._layout.home, self.controls.metrics_file)
        self._routing_feed.serve(self.controls.routing)
        while not self._may_exit():
            try:
                self._loop.run_once(self._patience())
                self._turn()
            except MemoryError:
                self._log(b"alert: out of memory, sleeping...")
                self._sleep_until = time.monotonic() + SLEEP_S
        self._control.close()
        for channel in self._channels.values():
            channel.save_times()
        self._metrics.write_last()
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

    def fresh_delivered(self, number: int) -> None:
        """The only recipient of ``number`` is done, and there is nothing in info/ to remove."""
        self._log(b"end msg %d" % number)
        self.counters.ended += 1
        self.oversight.missed(number)
        self._todo.delivered(number)

    def fresh_to_be_written(self, new: New, written: Callable[[bool], None]) -> None:
        """``new`` needs its files after all."""

        def counted(done: bool) -> None:
            if done:
                self.counters.ages.add(birth_of(self._layout, new.number) or int(new.born))
            written(done)
            self.oversight.arrived(new.number)

        self._todo.write(new, counted)

    def channel_empty(self, name: str, number: int) -> None:
        """A channel of ``number`` is done: it is finished if the other one is."""
        if self.oversight.ends(number):
            return
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

    # what people order, and what they are told

    def _take_orders(self) -> None:
        """Go on with the orders of the last run, and listen for new ones."""
        for line in take_actions(self._layout):
            self._log(line)
        writable = self.history.prepare()
        if not writable:
            self._log(b"warning: " + NO_PLACE.encode() + b"; nothing can be held")
        orders = Orders()
        try:
            orders = read_orders(self._layout)
        except OrdersUnreadable as error:
            self._log(b"alert: unable to use queue/pyqmail/orders, nothing is held: " + safe_words(str(error)))
            writable = False
        self.oversight.start(orders, writable=writable)
        self._control.open()

    def _name_odd_directories(self) -> None:
        layout = self._layout
        for name, missing in odd_directories(layout.queue, layout.split, todo_split=layout.todo_split):
            self._log(b"alert: " + describe_odd(name, missing=missing, split=layout.split).encode())

    def virtual_domains(self) -> Mapping[bytes, bytes]:
        """The map of virtualdomains."""
        return self.controls.routing.virtual

    def injecting(self, number: int) -> bool:
        """Whether the bounce of ``number`` is being queued."""
        return self._finisher.injecting(number)

    def in_todo(self, number: int) -> bool:
        """Whether ``number`` still has its todo file."""
        if self._todo.holds(number):
            return True
        try:
            return not sweep.absent(self._layout.todo(number))
        except OSError:
            return True

    def removed(self, number: int, birth: int) -> None:
        """``number`` has left the queue by order, but for its message file."""
        self._finisher.removed(number, birth)

    def all_failed(self, number: int) -> None:
        """``number`` has no recipients left, by order."""
        self._finisher.schedule.add(number, int(time.time()))

    def all_due(self) -> None:
        """Try everything now."""
        self._alarm()
        self._finisher.schedule.all_due(int(time.time()))

    def _ended(self, number: int) -> None:
        self.oversight.forget(number)

    def _measure(self) -> bytes:
        now = time.time()
        channels = self._channels
        parked = self.oversight.parked
        due = {name: passes.schedule.next_time() for name, passes in channels.items()}
        gauges = Gauges(
            now=now,
            started_at=self._started_at,
            running={name: len(passes.slots.used) for name, passes in channels.items()},
            limit={name: passes.limit for name, passes in channels.items()},
            waiting={name: len(passes.schedule) + len(parked[name]) for name, passes in channels.items()},
            lag_s={name: max(0.0, now - when) if when else 0.0 for name, when in due.items()},
            preprocessing=len(self._todo),
            held=len(self.oversight.orders.held),
            loading=self._loading is not None,
        )
        return format_metrics(self.counters, gauges)

    # the turn

    def _may_exit(self) -> bool:
        if not self.exiting:
            return False
        self._todo.stop()
        if not all(channel.idle for channel in self._channels.values()):
            return False
        if self._injections.pending:
            return False
        if self._finisher.idle and not self._cleaner.waiting:
            return True
        if self._exit_by == float("inf"):  # removing what was delivered may take a moment, but not for ever
            self._exit_by = time.monotonic() + REMOVAL_S
            self._loop.call_later(REMOVAL_S, lambda: None)
        return time.monotonic() >= self._exit_by

    def _patience(self) -> float:
        if self.exiting:
            return SELECT_MAX_S  # reports, answers and signals decide from here on
        if self._sleep_until:
            return max(0.0, self._sleep_until - time.monotonic())
        if (self._loading is not None and not self._load_paused) or (self._sweeping and not self._cleaner.busy):
            return 0
        now = time.time()
        times = [channel.next_time() for channel in self._channels.values()]
        when = self._failed_stat.next_time()
        if when is not None:
            times.append(when)
        times += [self._finisher.next_time(), self._todo.next_time(), self._sweep_at]
        wait = min(times) - now
        return 0 if wait <= 0 else min(wait + 0.01, SELECT_MAX_S)

    def _turn(self) -> None:
        if self.exiting or time.monotonic() < self._sleep_until:
            return
        self._sleep_until = 0.0
        now = time.time()
        self._todo.step(now, self.controls.routing)
        for channel in self._channels.values():
            channel.step(now)
        number = self._failed_stat.pop_due(int(now))
        if number is not None and number in self._unread:
            self._unread.discard(number)
            self._load(number)
        self._finisher.step(now, self.controls)
        self._load_some()
        self._sweep_some(now)

    def _offer(self, new: New) -> bool:
        """Deliver ``new`` straight from todo/ if it has one recipient and nothing older is still being read in."""
        if self._loading is not None or len(new.channels) != 1:
            return False
        ((name, recipients),) = new.channels.items()
        if len(recipients) != 1 or not self._channels[name].offer(new, recipients[0]):
            return False
        self.counters.accepted += 1
        return True

    def _accept(self, number: int, channels: tuple[str, ...]) -> None:
        now = int(time.time())
        if self._loading is not None:
            self._accepted.add(number)
        self._unread.discard(number)
        self.counters.accepted += 1
        self.counters.ages.add(birth_of(self._layout, number) or now)
        for name in channels:
            self._channels[name].schedule.add_new(number, now)
        if not channels:
            self._finisher.schedule.add(number, now)
        self.oversight.arrived(number)

    # start: what waits already, a little per turn, so that new mail need not wait for it

    def _load_some(self) -> None:
        if self._loading is None or self._load_paused:
            return
        until = time.monotonic() + SLICE_S
        while time.monotonic() < until:
            try:
                number = next(self._loading)
            except StopIteration:
                self._loading = None
                self._accepted.clear()
                self._load_due = False
                return
            except OSError as error:
                self._log(
                    b"alert: unable to opendir %b, sleeping..."
                    % os.path.relpath(error.filename or "info", self._layout.queue).encode()
                )
                self._load_paused = True
                self._loop.call_later(SLEEP_S, self._load_on)
                return
            if number not in self._accepted and not self._todo.holds(number):
                self._load(number)

    def _load_on(self) -> None:
        self._load_paused = False

    def _load(self, number: int) -> None:
        """Schedule a message as its files say."""
        layout = self._layout
        try:
            if not sweep.absent(layout.todo(number)):
                return
            if sweep.without_message(layout, number):
                self._set_aside(number)
                return
            times = {name: _modified(layout.part(name, number)) for name in CHANNELS}
            birth = _modified(layout.info(number))
        except OSError:
            self._log(b"warning: unable to stat %b; will try again later" % layout.relative("info", number).encode())
            self._unread.add(number)
            self._failed_stat.add(number, int(time.time()) + TROUBLE_S)
            return
        if birth is None:
            return  # it has ended since
        self.counters.ages.add(birth)
        if self.oversight.ends(number):
            return
        for name, when in times.items():
            if when is not None:
                self._channels[name].schedule.add(number, 0 if self._load_due else when)
        if not any(when is not None for when in times.values()):
            self._finisher.schedule.add(number, int(time.time()))

    def _set_aside(self, number: int) -> None:
        # an inode that is used again would send a new body to the old recipients
        name = self._layout.relative("info", number).encode()
        try:
            sweep.set_aside(self._layout, number)
        except OSError:
            self._log(b"alert: %b has no message; unable to set it aside, skipped" % name)
        else:
            self._log(b"alert: %b has no message, set aside" % name)

    # the cleanup walk

    def _sweep_some(self, now: float) -> None:
        if self._sweeping is None:
            if now < self._sweep_at or self._loading is not None:
                return
            self._sweep_at = now + SWEEP_S
            self._sweeping = sweep.stale(self._layout, now)
            self._notes.submit(self._sweep_notes)
        until = time.monotonic() + SLICE_S
        while not self._cleaner.busy and time.monotonic() < until:
            try:
                number = next(self._sweeping)
            except StopIteration:
                self._sweeping = None
                return
            if number is not None:
                self._finisher.clean(number)

    def _sweep_notes(self) -> Callable[[], None]:
        self.history.sweep()
        return lambda: None

    # signals

    def _terminate(self) -> None:
        self.exiting = True
        self._control.close()

    def _alarm(self) -> None:
        self._load_due = self._loading is not None
        for channel in self._channels.values():
            channel.schedule.all_due(int(time.time()))

    def _reread(self) -> None:
        """Take the control files as they are now, all of them, or none and say why."""
        try:
            os.chdir(self._layout.home)
        except OSError:
            self._log(b"alert: unable to reread controls: unable to switch to home directory")
            return
        try:
            new = read_controls(self._layout.home, self.controls)
        except ControlUnreadable as error:
            self._keep_old(str(error))
        else:
            for fault in new.faults[:1]:
                self._keep_old(fault)
            if not new.faults:
                self.controls = new
                self._metrics.set_path(self._layout.home, new.metrics_file)
                self._routing_feed.publish(new.routing)
                for channel in self._channels.values():
                    channel.controls_changed()
        self._return_to_queue()

    def _keep_old(self, why: str) -> None:
        self._log(b"alert: unable to reread " + why.partition(":")[0].encode())
        self._log(b"alert: " + safe_words(why) + b"; all controls stay as they were")

    def _return_to_queue(self) -> None:
        try:
            os.chdir(self._layout.queue)
        except OSError:
            self._log(b"alert: unable to switch back to queue directory; HELP! sleeping...")
            self._loop.call_later(SLEEP_S, self._return_to_queue)

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
    os.set_inheritable(mutex, True)
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
    lines = Log(0)
    try:
        return _serve(lines, environ)
    except CannotStart as trouble:
        lines.line(b"alert: cannot start: " + str(trouble).encode())
        return FATAL
    except BaseException as error:
        lines.line(describe_bug(error))
        raise
    finally:
        lines.flush()


def _serve(lines: Log, environ: Mapping[bytes, bytes]) -> int:
    """Start and run. Raises CannotStart."""
    log = lines.line
    layout, controls, limits = _start(environ)
    set_title("qmail-send")
    tell_ready(environ)
    for fault in controls.faults:
        log(b"warning: " + safe_words(fault) + b"; it is ignored")
    daemon = Daemon(layout, controls, environ, log)
    daemon.gather(lines)
    return daemon.run(limits)
