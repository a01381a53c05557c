"""Messages that are deleted, bounced or moved by order: done in the thread, once nothing else works on them."""

from collections.abc import Callable, Collection, Mapping

from pyqmail.log.events import Warn
from pyqmail.send.holds import DELETE
from pyqmail.send.means import Means
from pyqmail.send.order_book import OrderBook
from pyqmail.send.order_states import end_message
from pyqmail.send.retry import TROUBLE_S, Schedule
from pyqmail.spool.ending import sync_names
from pyqmail.system.typed import Protocol


class Ordered(Protocol):
    """What orders need of the rest of qmail-send."""

    def schedules(self) -> list[Schedule]:
        """Wherever a message may wait."""

    def delivering(self, number: int) -> bool:
        """Whether ``number`` is being delivered."""

    def all_due(self) -> None:
        """Try everything now."""

    def due(self, channel: str, number: int) -> None:
        """``number`` waits in that channel, and is due."""

    def in_todo(self, number: int) -> bool:
        """Whether ``number`` still has its todo file."""

    def injecting(self, number: int) -> bool:
        """Whether the bounce of ``number`` is being queued."""

    def removed(self, number: int, birth: int) -> None:
        """``number`` has left the queue but for mess/N."""

    def all_failed(self, number: int) -> None:
        """``number`` has no recipients left."""


class Endings:
    """Carries out the orders in ``book`` that end a message."""

    def __init__(self, means: Means, book: OrderBook, messages: Ordered) -> None:
        self._means = means
        self._book = book
        self._messages = messages
        self._running: set[int] = set()  # in the thread
        self._unsaved = False  # the orders on disk are to be written once more

    def carry_out(self, numbers: Collection[int], done: Callable[[], None] = lambda: None) -> None:
        """Do it to those of ``numbers`` that nothing else works on; ``done`` when that is over, or at once for none."""
        free = {
            number
            for number in numbers
            if self._book.ends(number)
            and number not in self._running
            and not self._messages.delivering(number)
            and not self._messages.in_todo(number)
            and not self._messages.injecting(number)
        }
        if not free:
            done()
            return
        self._running |= free
        for schedule in self._messages.schedules():
            schedule.remove(free)
        work = {number: self._book.orders.endings[number] for number in free}
        shadow = self._means.shadow
        copies = {number: shadow.identity(number) for number in free} if shadow is not None else {}
        layout, routing = self._means.layout, self._means.controls.routing
        history = self._means.history

        def work_through() -> Callable[[], None]:
            failed = {
                number for number, order in work.items() if not end_message(layout, history, number, order, routing)
            }
            try:
                sync_names(layout, work)
            except OSError:
                failed = set(work)  # their orders stay
            return lambda: self._carried_out(work, failed, copies, done)

        self._means.background.submit(work_through)

    def _carried_out(
        self,
        work: Mapping[int, tuple[bytes, int]],
        failed: Collection[int],
        copies: Mapping[int, bytes],
        done: Callable[[], None],
    ) -> None:
        self._running -= set(work)
        for number, (kind, birth) in work.items():
            if number in failed:
                self._means.log(Warn(f"unable to {kind.decode()} msg {number}; will try again later".encode()))
                continue
            self._book.gone(number)
            if kind == DELETE:
                if self._means.shadow is not None:
                    self._means.shadow.ended(copies[number])
                self._messages.removed(number, birth)
            else:
                self._messages.all_failed(number)
        if failed:
            self._means.loop.call_later(TROUBLE_S, lambda: self.carry_out(failed))
        self._save(done)

    def _save(self, done: Callable[[], None]) -> None:
        """Have the orders that are carried out forgotten on disk too: the number may come back, if not its birth."""

        def saved(trouble: str) -> None:
            if trouble and not self._unsaved:
                self._unsaved = True
                self._means.log(Warn(f"{trouble}; will try again later".encode()))
                self._means.loop.call_later(TROUBLE_S, self._save_again)
            done()

        self._book.save(saved)

    def _save_again(self) -> None:
        self._unsaved = False
        self._save(lambda: None)
