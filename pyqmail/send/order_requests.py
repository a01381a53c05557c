"""What people ask of a running qmail-send about its messages (qmail-q(8)): retry, hold, release, delete, bounce.

An order to hold, to delete or to bounce is on disk (send/holds.py) before it is confirmed. Delete and bounce wait until
no delivery of the message runs, start no new one meanwhile, and are carried out in the thread that waits for the disk.
Every order is a line of the log: ``control: uid 0: hold msg 457``.

An order for a message that is still in todo/, perhaps in its first delivery, waits in memory until that is over.
"""

from collections.abc import Callable, Collection
from functools import partial

from pyqmail.log.events import OrderGiven
from pyqmail.send.endings import Ordered
from pyqmail.send.holds import MOVED, birth_of
from pyqmail.send.means import Means
from pyqmail.send.order_book import CHANNELS
from pyqmail.send.order_states import (
    BUSY,
    DELIVERING,
    DONE,
    ENDING,
    FENCED,
    HELD,
    NO_PLACE,
    NOT_HELD,
    PENDING,
    UNKNOWN,
    Answer,
    set_due,
)
from pyqmail.send.queue_orders import QueueOrders


class OrderRequests:
    """Takes orders, and answers with what came of each message."""

    def __init__(self, means: Means, orders: QueueOrders, messages: Ordered) -> None:
        self._means = means
        self._orders = orders
        self._messages = messages

    def retry(self, who: str, numbers: Collection[int] | None, what: str, answer: Answer) -> None:
        """Try ``numbers`` now (None: everything that waits); ``what`` describes them in the log, if there is need."""
        now = int(self._means.clock())
        if numbers is None:
            self._say(who, "retry all")
            self._messages.all_due()
            answer({}, "")
            return
        states = {number: self._state(number) for number in numbers}
        wanted = {number for number, state in states.items() if state in (DONE, DELIVERING)}
        for schedule in self._messages.schedules() if wanted else ():
            schedule.make_due(wanted, now)
        for number in wanted:
            for name in CHANNELS:
                set_due(self._means.layout, name, number, now)  # it may not have been read in yet, after a start
        self._say_each(who, "retry", sorted(wanted), what)
        answer(states, "")

    def hold(self, who: str, numbers: Collection[int], domain: bytes, answer: Answer) -> None:
        """Start nothing more of ``numbers``, nor for ``domain`` unless it is empty."""
        if not self._orders.writable:
            answer({}, NO_PLACE)
            return
        states = self._states(numbers)
        held = []
        for number, state in states.items():
            birth = birth_of(self._means.layout, number)
            if state in (DONE, DELIVERING) and birth is not None:
                self._orders.book.orders.held[number] = birth
                states[number] = DONE
                held.append(number)
            elif state == BUSY and self._messages.in_todo(number):
                states[number] = self._wait(who, "hold", number, partial(self.hold, who, [number], b"", _nobody))
        if domain:
            self._orders.book.orders.domains.add(domain)

        def recorded(states: dict[int, str], trouble: str) -> None:
            if trouble:
                self._free(held)
                self._orders.book.orders.domains.discard(domain)
            answer(states, trouble)

        self._record(who, "hold", states, domain, recorded)

    def _free(self, numbers: Collection[int]) -> None:
        """``numbers`` are held no more; what became due meanwhile is due now."""
        for channel, number in self._orders.book.unpark(numbers):
            self._messages.due(channel, number)

    def release(self, who: str, numbers: Collection[int], domain: bytes, answer: Answer) -> None:
        """Undo holds; what became due meanwhile is due now."""
        states = {}
        for number in numbers:
            if self._orders.book.early.pop(number, None) is not None:
                states[number] = DONE
                continue
            known = NOT_HELD if birth_of(self._means.layout, number) is not None else UNKNOWN
            states[number] = DONE if number in self._orders.book.orders.held else known
        self._free([number for number, state in states.items() if state == DONE])
        if domain:
            self._orders.book.orders.domains.discard(domain)
        self._record(who, "release", states, domain, answer)

    def take(self, owner: object, numbers: Collection[int], answer: Answer) -> None:
        """Start nothing more of ``numbers``, which ``owner`` wants to move, until they are moved or given back.

        What this node may not deliver is not moved either.
        """
        book = self._orders.book
        states = {number: self._state(number) for number in numbers}
        for number, state in states.items():
            if book.taken.get(number, owner) is not owner:
                states[number] = BUSY
            elif state in (DONE, HELD, DELIVERING) and self._fenced(number):
                states[number] = FENCED
            elif state in (DONE, HELD, DELIVERING):
                book.taken[number] = owner
                states[number] = DELIVERING if self._messages.delivering(number) else state
        answer(states, "")

    def _fenced(self, number: int) -> bool:
        """Whether another node may deliver ``number``: whom it is moved to would deliver it too."""
        shadow = self._means.shadow
        return shadow is not None and shadow.stops(shadow.identity(number))

    def give_back(self, owner: object) -> None:
        """``owner`` has gone; what became due meanwhile is due now."""
        for channel, number in self._orders.book.give_back(owner):
            self._messages.due(channel, number)

    def moved(self, owner: object, who: str, numbers: Collection[int], node: str, answer: Answer) -> None:
        """``node`` has taken in the recipients left of ``numbers``: those of them that are still ``owner``'s end here.

        Another message may have the number by now of one that is not.
        """
        taken = [number for number in numbers if self._orders.book.taken.get(number) is owner]
        unknown = {number: UNKNOWN for number in numbers if number not in taken}
        self.end(who, MOVED, taken, lambda states, trouble: answer({**states, **unknown}, trouble), f"moved to {node}")

    def end(self, who: str, kind: bytes, numbers: Collection[int], answer: Answer, verb: str = "") -> None:
        """Delete or bounce ``numbers``, or let them have no recipients left. ``verb`` is for the log."""
        if not self._orders.writable:
            answer({}, NO_PLACE)
            return
        states = {number: self._state(number) for number in numbers}
        ordered = []
        for number, state in states.items():
            birth = birth_of(self._means.layout, number)
            if state in (DONE, DELIVERING, HELD) and birth is not None:
                self._orders.book.orders.endings[number] = kind, birth
                states[number] = PENDING if state == DELIVERING else DONE
                ordered.append(number)
            elif state == BUSY and self._messages.in_todo(number):
                order = partial(self.end, who, kind, [number], _nobody)
                states[number] = self._wait(who, kind.decode(), number, order)

        def recorded(states: dict[int, str], trouble: str) -> None:
            if trouble:
                for number in ordered:
                    self._orders.book.orders.endings.pop(number, None)
                answer({}, trouble)
                return
            # one that must wait is confirmed at once; the others when they are gone
            self._orders.endings.carry_out(ordered, lambda: answer(states, ""))

        self._record(who, verb or kind.decode(), states, b"", recorded)

    def _wait(self, who: str, verb: str, number: int, act: Callable[[], None]) -> str:
        self._orders.book.early[number] = f"{who}: {verb}", act
        return PENDING

    def _state(self, number: int) -> str:
        """Where ``number`` is: DONE means that it waits, so that an order takes effect at once."""
        if self._messages.in_todo(number) or self._messages.injecting(number):
            return BUSY
        if birth_of(self._means.layout, number) is None:
            return UNKNOWN
        if number in self._orders.book.orders.endings:
            return ENDING
        if number in self._orders.book.orders.held:
            return HELD
        return DELIVERING if self._messages.delivering(number) else DONE

    def _states(self, numbers: Collection[int]) -> dict[int, str]:
        return {number: self._state(number) for number in numbers}

    def _record(self, who: str, verb: str, states: dict[int, str], domain: bytes, answer: Answer) -> None:
        """Log an order, put all orders on disk, and confirm."""
        done = sorted(
            number
            for number, state in states.items()
            if state in (DONE, PENDING) and number not in self._orders.book.early
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

        self._orders.book.save(saved)

    def _say(self, who: str, text: str) -> None:
        self._means.log(OrderGiven(f"{who}: {text}".encode("ascii", "replace")))

    def _say_each(self, who: str, verb: str, numbers: Collection[int], what: str) -> None:
        if what and numbers:
            self._say(who, f"{verb} {what}: {len(numbers)} messages")
            return
        for number in numbers:
            self._say(who, f"{verb} msg {number}")


def _nobody(states: dict[int, str], trouble: str) -> None:
    """The answer to an order whose caller has gone; the log has it."""
