"""Joins the parts of qmail-send; the turn of its loop is here (qmail-send(8))."""

import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial

from pyqmail.formats.logline import safe_words
from pyqmail.intake.background import BackgroundInjections
from pyqmail.log.events import Alert, Exiting, OrderGiven, Warn
from pyqmail.log.sinks import Sink
from pyqmail.send.background import Background
from pyqmail.send.channel import Channel
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.cleanup import Cleanup
from pyqmail.send.control_socket import ControlSocket
from pyqmail.send.controls import Controls
from pyqmail.send.delivery import TERM_S
from pyqmail.send.holds import Orders, OrdersUnreadable, read_orders
from pyqmail.send.means import Means
from pyqmail.send.measuring import measure
from pyqmail.send.message_facts import MessageFacts
from pyqmail.send.messages import Messages
from pyqmail.send.metrics import Counters, MetricsFile
from pyqmail.send.offline import take_actions
from pyqmail.send.order_requests import OrderRequests
from pyqmail.send.order_states import NO_PLACE
from pyqmail.send.reload import Reload
from pyqmail.send.routing_feed import RoutingFeed, without_feed
from pyqmail.send.status import Status
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout
from pyqmail.spool.split import describe_odd, odd_directories
from pyqmail.system.loop import Loop
from pyqmail.system.typed import Protocol

CHANNELS = ("local", "remote")
SLEEP_S = 10
REMOVAL_S = 2  # that qmail-clean may take at the end
SELECT_MAX_S = 86400
STEP_BACK_S = 60  # so far the clock may go back before what waits is tried at once


class Timed(Protocol):
    """A part that has something to do now and then."""

    def next_time(self) -> float:
        """When, in seconds of the epoch: 0 for now, inf for never."""

    def step(self, now: float) -> None:
        """Do some of it."""


class Daemon:
    """Made once. ``run`` serves until TERM, or until a spawner or qmail-clean has gone."""

    def __init__(
        self, loop: Loop, layout: Layout, controls: Controls, environ: Mapping[bytes, bytes], log: Sink
    ) -> None:
        self._means = means = Means(
            loop,
            layout,
            log,
            Background(loop, log),
            History(layout),
            MessageFacts(layout, log),
            Counters(),
            controls,
            clock=time.time,
        )
        if controls.copies:
            from pyqmail.send.shadow_link import ShadowLink  # most queues have no copies

            means.shadow = ShadowLink(loop, layout, log)
        self._injections = BackgroundInjections(loop, layout, without_feed(environ))
        self._cleaner = Cleaner(loop, 5, 6, self._cleaner_lost)
        self._messages = messages = Messages(means, self._cleaner, self._injections)
        self._status = status = Status(means)
        for name, commands in zip(CHANNELS, (1, 3), strict=True):
            messages.channels[name] = Channel(
                name, means, messages, messages.orders, status, commands=commands, reports=commands + 1
            )
        status.channels = {name: channel.deliveries for name, channel in messages.channels.items()}
        cleanup = Cleanup(means, self._cleaner, messages.finisher.leaving, messages.loading)
        # in this order: what one of them does may be for the next
        channels = messages.channels.values()
        self._parts: tuple[Timed, ...] = (messages.todo, *channels, messages.finisher, messages.loading, cleanup)
        requests = OrderRequests(means, messages.orders, messages)
        measured = partial(measure, means, messages, time.time())
        book = messages.orders.book
        self._control = ControlSocket(loop, layout.send_socket, messages.channels, book, requests, measured, log)
        self._metrics = MetricsFile(loop, means.background, measured, log)
        self._routing_feed = RoutingFeed(environ, loop, log)
        self._ahead = float("-inf")  # how far the clock was ahead of the monotonic one
        self._ending = False
        self._exit_by = float("inf")
        self._sleep_until = 0.0  # out of memory until then

    def run(self, limits: Sequence[int]) -> None:
        """Serve until told to exit."""
        means = self._means
        reload = Reload(means, self._controls_changed)
        means.loop.add_signal(signal.SIGTERM, self._terminate)
        means.loop.add_signal(signal.SIGALRM, self._messages.make_channels_due)
        means.loop.add_signal(signal.SIGHUP, reload.reread)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for channel, limit in zip(self._messages.channels.values(), limits, strict=True):
            channel.start(limit)
        self._take_orders()
        self._name_odd_directories()
        means.facts.start(self._cleaner)
        means.log(self._status.running())
        self._metrics.set_path(means.layout.home, means.controls.metrics_file)
        self._routing_feed.serve(means.controls.routing)
        self._serve()
        self._control.close()
        for channel in self._messages.channels.values():
            channel.save_times()
        if means.shadow is not None:
            means.shadow.save()
        self._metrics.write_last()
        means.log(Exiting())

    def _serve(self) -> None:
        while not self._may_exit():
            try:
                self._means.loop.run_once(self._patience())
                self._turn()
            except MemoryError:
                self._means.log(Alert(b"out of memory, sleeping..."))
                self._sleep_until = time.monotonic() + SLEEP_S

    def _take_orders(self) -> None:
        """Go on with the orders of the last run, and listen for new ones."""
        means = self._means
        for line in take_actions(means.layout):
            means.log(OrderGiven(line.removeprefix(b"control: ")))
        writable = means.history.prepare()
        if not writable:
            means.log(Warn(NO_PLACE.encode() + b"; nothing can be held"))
        orders = Orders()
        try:
            orders = read_orders(means.layout)
        except OrdersUnreadable as error:
            means.log(Alert(b"unable to use queue/pyqmail/orders, nothing is held: " + safe_words(str(error))))
            writable = False
        self._messages.orders.start(orders, writable=writable)
        self._control.open()

    def _name_odd_directories(self) -> None:
        layout = self._means.layout
        for name, missing in odd_directories(layout.queue, layout.split, todo_split=layout.todo_split):
            self._means.log(Alert(describe_odd(name, missing=missing, split=layout.split).encode()))

    # the turn

    def _patience(self) -> float:
        if self._means.exiting:
            return SELECT_MAX_S  # reports, answers and signals decide from here on
        if self._sleep_until:
            return max(0.0, self._sleep_until - time.monotonic())
        now = self._means.clock()
        soonest = now + SELECT_MAX_S
        for part in self._parts:
            when = part.next_time()
            if when < soonest:
                soonest = when
        return 0 if soonest <= now else soonest - now + 0.01

    def _turn(self) -> None:
        if self._means.exiting or (self._sleep_until and time.monotonic() < self._sleep_until):
            return
        self._sleep_until = 0.0
        now = self._means.clock()
        self._notice_step_back(now)
        for part in self._parts:
            if part.next_time() <= now:
                part.step(now)

    def _notice_step_back(self, now: float) -> None:
        """Try everything when the clock has gone back: else what waits would do so for as long again, perhaps years."""
        ahead = now - time.monotonic()
        back, self._ahead = self._ahead - ahead, ahead
        if back > STEP_BACK_S:
            self._means.log(Warn(b"the clock went back by %d seconds: what waits is tried now" % back))
            self._messages.all_due()

    # the end

    def _terminate(self) -> None:
        self._means.exiting = True
        self._control.close()

    def _cleaner_lost(self) -> None:
        self._means.log(Alert(b"oh no! lost qmail-clean connection! dying..."))
        self._means.exiting = True

    def _may_exit(self) -> bool:
        if not self._means.exiting:
            return False
        messages = self._messages
        if not self._ending:  # users' programs may run for ever
            self._ending = True
            self._means.loop.call_later(TERM_S, messages.channels["local"].deliveries.give_up)
        messages.todo.stop()
        if not all(channel.idle for channel in messages.channels.values()) or self._injections.pending:
            return False
        told = self._means.shadow is None or self._means.shadow.idle
        if messages.finisher.leaving.idle and not self._cleaner.waiting and told:
            return True
        if self._exit_by == float("inf"):  # removing what was delivered may take a moment, but not for ever
            self._exit_by = time.monotonic() + REMOVAL_S
            self._means.loop.call_later(REMOVAL_S, lambda: None)
        return time.monotonic() >= self._exit_by

    def _controls_changed(self, controls: Controls) -> None:
        self._metrics.set_path(self._means.layout.home, controls.metrics_file)
        self._routing_feed.publish(controls.routing)
        for channel in self._messages.channels.values():
            channel.deliveries.controls_changed()
