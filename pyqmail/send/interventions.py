"""What people ask of a running qmail-send about its messages (qmail-q(8)): retry, hold, release, delete, bounce.

An order to hold, to delete or to bounce is on disk (send/holds.py) before it is confirmed. Delete and bounce wait until
no delivery of the message runs, start no new one meanwhile, and are carried out in the thread that waits for the disk.
Every order is a line of the log: ``control: uid 0: hold msg 457``.

An order for a message that is still in todo/, perhaps in its first delivery, waits in memory until that is over.
"""

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Protocol

from pyqmail.send.background import Background
from pyqmail.send.domains import domain_of
from pyqmail.send.holds import BOUNCE, DELETE, Orders, birth_of, format_orders, write_orders
from pyqmail.send.log import Line
from pyqmail.spool import ending
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout
from pyqmail.spool.retry import TROUBLE_S, Schedule
from pyqmail.system import files
from pyqmail.system.loop import Loop

Answer = Callable[[dict[int, str], str], None]  # per message what came of it; what failed as a whole, or ""

DONE = "done"
UNKNOWN = "unknown"
DELIVERING = "delivering"
PENDING = "pending"  # ordered, and done when its deliveries have reported
HELD = "held"
ENDING = "ending"  # somebody ordered to delete or bounce it
BUSY = "busy"  # not preprocessed yet, or its bounce is being queued
NOT_HELD = "not held"
NO_PLACE = "queue/pyqmail is missing or not writable: run qmail-setup"


def bounce_report(reply: bytes) -> bytes:
    """What the paragraph of a recipient says whose message an administrator returns."""
    text = b"The administrator of this mail system returned your message before it could be delivered.\n"
    return text + (b"The last attempt was answered: " + reply + b"\n" if reply else b"")


class Passes(Protocol):
    """What is needed of a channel."""

    schedule: Schedule

    def at_work(self, number: int) -> bool:
        """Whether ``number`` is being delivered."""


class Daemon(Protocol):
    """What is needed of the rest of qmail-send."""

    def virtual_domains(self) -> Mapping[bytes, bytes]:
        """The map of virtualdomains."""

    def all_due(self) -> None:
        """Try everything now."""

    def in_todo(self, number: int) -> bool:
        """Whether ``number`` still has its todo file."""

    def injecting(self, number: int) -> bool:
        """Whether the bounce of ``number`` is being queued."""

    def removed(self, number: int, birth: int) -> None:
        """``number`` has left the queue but for mess/N."""

    def all_failed(self, number: int) -> None:
        """``number`` has no recipients left."""


class Interventions:
    """The orders in force, and what must be asked before a message or recipient is tried."""

    def __init__(
        self,
        loop: Loop,
        layout: Layout,
        channels: Mapping[str, Passes],
        finished: Schedule,
        daemon: Daemon,
        background: Background,
        history: History,
        log: Line,
    ) -> None:
        self.orders = Orders()
        self.parked: dict[str, dict[int, int]] = {name: {} for name in channels}  # withheld: number to when it was due
        self.writable = False
        self._loop = loop
        self._layout = layout
        self._channels = channels
        self._finished = finished
        self._daemon = daemon
        self._background = background
        self._history = history
        self._log = log
        self._running: set[int] = set()  # endings that are in the thread
        self._early: dict[int, tuple[str, Callable[[], None]]] = {}  # for messages in todo/: who and what; how

    def start(self, orders: Orders, *, writable: bool) -> None:
        """Take up the orders that a previous run left."""
        self.orders = orders
        self.writable = writable
        if orders.outdated and writable:
            self._save(lambda trouble: None)
        self._carry_out(list(orders.endings))

    # asked by the channels

    def withholds(self, channel: str, number: int, now: int) -> bool:
        """Whether ``number``, which is due, must not be tried; it is kept here then."""
        if number in self.orders.endings:
            self._carry_out([number])
            return True
        if number not in self.orders.held:
            return False
        self.parked[channel][number] = now
        return True

    def stops(self, number: int) -> bool:
        """Whether no further delivery of ``number`` may start."""
        return number in self.orders.held or number in self.orders.endings or number in self._early

    def withholds_recipient(self, recipient: bytes) -> bool:
        """Whether the domain of ``recipient`` is held."""
        return bool(self.orders.domains) and domain_of(recipient) in self.orders.domains

    def ends(self, number: int) -> bool:
        """Whether ``number`` is about to be deleted or bounced."""
        return number in self.orders.endings

    def settled(self, number: int) -> None:
        """A pass over ``number`` has ended and all its deliveries have reported."""
        if number in self.orders.endings:
            self._carry_out([number])

    def arrived(self, number: int) -> None:
        """``number`` has left todo/, and is in the queue for longer."""
        order = self._early.pop(number, None)
        if order is not None:
            order[1]()

    def missed(self, number: int) -> None:
        """``number`` is delivered, and never was in the queue for longer."""
        order = self._early.pop(number, None)
        if order is not None:
            self._log(f"control: {order[0]} msg {number}: too late, it is delivered".encode())

    def forget(self, number: int) -> None:
        """``number`` has left the queue."""
        if self.orders.held.pop(number, None) is not None:
            self._save(lambda trouble: None)

    # orders

    def retry(self, who: str, numbers: Collection[int] | None, what: str, answer: Answer) -> None:
        """Try ``numbers`` now (None: everything that waits); ``what`` describes them in the log, if there is need."""
        now = int(time.time())
        if numbers is None:
            self._say(who, "retry all")
            self._daemon.all_due()
            answer({}, "")
            return
        states = {number: self._state(number) for number in numbers}
        wanted = {number for number, state in states.items() if state in (DONE, DELIVERING)}
        for schedule in self._schedules() if wanted else ():
            schedule.make_due(wanted, now)
        for number in wanted:
            for name in self._channels:
                set_due(self._layout, name, number, now)  # it may not have been read in yet, after a start
        self._say_each(who, "retry", sorted(wanted), what)
        answer(states, "")

    def hold(self, who: str, numbers: Collection[int], domain: bytes, answer: Answer) -> None:
        """Start nothing more of ``numbers``, nor for ``domain`` unless it is empty."""
        if not self.writable:
            answer({}, NO_PLACE)
            return
        states = self._states(numbers)
        held = []
        for number, state in states.items():
            birth = birth_of(self._layout, number)
            if state in (DONE, DELIVERING) and birth is not None:
                self.orders.held[number] = birth
                states[number] = DONE
                held.append(number)
            elif state == BUSY and self._daemon.in_todo(number):
                states[number] = self._wait(who, "hold", number, partial(self.hold, who, [number], b"", _nobody))
        if domain:
            self.orders.domains.add(domain)

        def recorded(states: dict[int, str], trouble: str) -> None:
            if trouble:
                self._free(held)
                self.orders.domains.discard(domain)
            answer(states, trouble)

        self._record(who, "hold", states, domain, recorded)

    def _free(self, numbers: Collection[int]) -> None:
        """``numbers`` are held no more; what became due meanwhile is due now."""
        now = int(time.time())
        for number in numbers:
            self.orders.held.pop(number, None)
            for name, parked in self.parked.items():
                if parked.pop(number, None) is not None:
                    self._channels[name].schedule.add(number, now)

    def release(self, who: str, numbers: Collection[int], domain: bytes, answer: Answer) -> None:
        """Undo holds; what became due meanwhile is due now."""
        states = {}
        for number in numbers:
            if self._early.pop(number, None) is not None:
                states[number] = DONE
                continue
            known = NOT_HELD if birth_of(self._layout, number) is not None else UNKNOWN
            states[number] = DONE if number in self.orders.held else known
        self._free([number for number, state in states.items() if state == DONE])
        if domain:
            self.orders.domains.discard(domain)
        self._record(who, "release", states, domain, answer)

    def end(self, who: str, kind: bytes, numbers: Collection[int], answer: Answer) -> None:
        """Delete or bounce ``numbers``."""
        if not self.writable:
            answer({}, NO_PLACE)
            return
        states = {number: self._state(number) for number in numbers}
        ordered = []
        for number, state in states.items():
            birth = birth_of(self._layout, number)
            if state in (DONE, DELIVERING, HELD) and birth is not None:
                self.orders.endings[number] = kind, birth
                states[number] = PENDING if state == DELIVERING else DONE
                ordered.append(number)
            elif state == BUSY and self._daemon.in_todo(number):
                verb = kind.decode()
                states[number] = self._wait(who, verb, number, partial(self.end, who, kind, [number], _nobody))

        def recorded(states: dict[int, str], trouble: str) -> None:
            if trouble:
                for number in ordered:
                    self.orders.endings.pop(number, None)
                answer({}, trouble)
                return
            # one that must wait is confirmed at once; the others when they are gone
            self._carry_out(ordered, lambda: answer(states, ""))

        self._record(who, kind.decode(), states, b"", recorded)

    def _wait(self, who: str, verb: str, number: int, act: Callable[[], None]) -> str:
        self._early[number] = f"{who}: {verb}", act
        return PENDING

    def _state(self, number: int) -> str:
        """Where ``number`` is: DONE means that it waits, so that an order takes effect at once."""
        if self._daemon.in_todo(number) or self._daemon.injecting(number):
            return BUSY
        if birth_of(self._layout, number) is None:
            return UNKNOWN
        if number in self.orders.endings:
            return ENDING
        if number in self.orders.held:
            return HELD
        return DELIVERING if self._delivering(number) else DONE

    def _states(self, numbers: Collection[int]) -> dict[int, str]:
        return {number: self._state(number) for number in numbers}

    def _delivering(self, number: int) -> bool:
        return any(passes.at_work(number) for passes in self._channels.values())

    def _schedules(self) -> list[Schedule]:
        return [*(passes.schedule for passes in self._channels.values()), self._finished]

    def _record(self, who: str, verb: str, states: dict[int, str], domain: bytes, answer: Answer) -> None:
        """Log an order, put all orders on disk, and confirm."""
        done = sorted(
            number for number, state in states.items() if state in (DONE, PENDING) and number not in self._early
        )
        if not done and not domain:
            answer(states, "")
            return

        def saved(trouble: str) -> None:
            if not trouble:
                self._say_each(who, verb, done, "")
                if domain:
                    self._say(who, f"{verb} domain {domain.decode('ascii', 'replace')}")
            answer({} if trouble else states, trouble)

        self._save(saved)

    def _save(self, saved: Callable[[str], None]) -> None:
        layout, data = self._layout, format_orders(self.orders)

        def write() -> Callable[[], None]:
            try:
                write_orders(layout, data)
            except OSError as error:
                trouble = f"unable to write queue/pyqmail: {(error.strerror or 'error').lower()}"
                return lambda: saved(trouble)
            return lambda: saved("")

        self._background.submit(write)

    def _say(self, who: str, text: str) -> None:
        self._log(f"control: {who}: {text}".encode("ascii", "replace"))

    def _say_each(self, who: str, verb: str, numbers: Collection[int], what: str) -> None:
        if what and numbers:
            self._say(who, f"{verb} {what}: {len(numbers)} messages")
            return
        for number in numbers:
            self._say(who, f"{verb} msg {number}")

    # carrying out what ends a message

    def _carry_out(self, numbers: Collection[int], done: Callable[[], None] = lambda: None) -> None:
        free = {
            number
            for number in numbers
            if number in self.orders.endings
            and number not in self._running
            and not self._delivering(number)
            and not self._daemon.in_todo(number)
            and not self._daemon.injecting(number)
        }
        if not free:
            done()
            return
        self._running |= free
        for schedule in self._schedules():
            schedule.remove(free)
        work = {number: self.orders.endings[number] for number in free}
        layout, virtual = self._layout, self._daemon.virtual_domains()
        history = self._history

        def carry_out() -> Callable[[], None]:
            failed = {
                number for number, order in work.items() if not end_message(layout, history, number, order, virtual)
            }
            return lambda: self._carried_out(work, failed, done)

        self._background.submit(carry_out)

    def _carried_out(
        self, work: Mapping[int, tuple[bytes, int]], failed: Collection[int], done: Callable[[], None]
    ) -> None:
        self._running -= set(work)
        for number, (kind, birth) in work.items():
            if number in failed:
                self._log(f"warning: unable to {kind.decode()} msg {number}; will try again later".encode())
                continue
            self.orders.endings.pop(number, None)
            self.orders.held.pop(number, None)
            for parked in self.parked.values():
                parked.pop(number, None)
            if kind == DELETE:
                self._daemon.removed(number, birth)
            else:
                self._daemon.all_failed(number)
        if failed:
            self._loop.call_later(TROUBLE_S, lambda: self._carry_out(failed))
        self._save(lambda trouble: done())


def _nobody(states: dict[int, str], trouble: str) -> None:
    """The answer to an order whose caller has gone; the log has it."""


def set_due(layout: Layout, channel: str, number: int, now: int) -> None:
    """Write into the channel file that it is due at ``now``, if there is one. Raises no OSError: it is a hint."""
    try:
        files.set_times(layout.part(channel, number), now)
    except OSError:
        return


def end_message(
    layout: Layout,
    history: History,
    number: int,
    order: tuple[bytes, int],
    virtual: Mapping[bytes, bytes],
) -> bool:
    """Carry out ``order`` on a message that nothing else works on; False if a file would not let us."""
    kind, birth = order

    def report(channel: str, offset: int) -> bytes:
        note = history.read(channel, number, birth)
        return bounce_report(note.replies.get(offset, b"") if note is not None else b"")

    try:
        if kind == BOUNCE:
            ending.fail_recipients(layout, number, virtual, report)
        else:
            ending.remove_message(layout, number)
    except OSError:
        return False
    for channel in ending.CHANNELS:
        history.forget(channel, number)
    return True
