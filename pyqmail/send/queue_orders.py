"""What people ordered, as the channels ask for it before a message or recipient is tried (qmail-q(8))."""

from pyqmail.log.events import Alert, OrderGiven, Warn
from pyqmail.send.endings import Endings, Ordered
from pyqmail.send.holds import DELETE, Orders, birth_of
from pyqmail.send.means import Means
from pyqmail.send.order_book import OrderBook


class QueueOrders:
    """The orders in force, and what must be asked before a message or recipient is tried."""

    def __init__(self, means: Means, messages: Ordered) -> None:
        self.book = OrderBook(means)
        self.writable = False
        self._means = means
        self.endings = Endings(means, self.book, messages)

    def start(self, orders: Orders, *, writable: bool) -> None:
        """Take up the orders that a previous run left."""
        self.book.orders = orders
        self.writable = writable
        if orders.outdated and writable:
            self.book.save(lambda trouble: None)
        self.endings.carry_out(list(orders.endings))

    # asked by the channels

    def withholds(self, channel: str, number: int, now: int) -> bool:
        """Whether ``number``, which is due, must not be tried; it is kept here then."""
        if number in self.book.orders.endings:
            self.endings.carry_out([number])
            return True
        return self.book.park(channel, number, now)

    def drop(self, number: int) -> bool:
        """Have ``number``, which others deliver, removed as by order; False when it is gone already."""
        birth = birth_of(self._means.layout, number)
        if birth is None:
            return False
        self._means.log(Warn(b"another node has adopted msg %d, removed here" % number))
        self.book.orders.endings[number] = DELETE, birth
        self.endings.carry_out([number])
        return True

    def stops(self, number: int) -> bool:
        """Whether no further delivery of ``number`` may start."""
        return self.book.stops(number)

    def withholds_recipient(self, recipient: bytes) -> bool:
        """Whether the domain of ``recipient`` is held."""
        return self.book.withholds_recipient(recipient)

    def ends(self, number: int) -> bool:
        """Whether ``number`` is about to be deleted or bounced."""
        return self.book.ends(number)

    def settled(self, number: int) -> None:
        """A pass over ``number`` has ended and all its deliveries have reported."""
        if number in self.book.orders.endings:
            self.endings.carry_out([number])

    def comes_held(self, number: int, birth: int) -> None:
        """``number``, still in todo/, is held. The thread works in order: its files are synced after this is saved."""

        def saved(trouble: str) -> None:
            if trouble:
                self._means.log(Alert(f"{trouble}: msg {number} is held until the next start only".encode()))

        self.book.orders.held[number] = birth
        self.book.save(saved)

    def arrived(self, number: int) -> None:
        """``number`` has left todo/, and is in the queue for longer."""
        order = self.book.early.pop(number, None)
        if order is not None:
            order[1]()

    def missed(self, number: int) -> None:
        """``number`` is delivered, and never was in the queue for longer."""
        order = self.book.early.pop(number, None)
        if order is not None:
            self._means.log(OrderGiven(f"{order[0]} msg {number}: too late, it is delivered".encode()))

    def forget(self, number: int) -> None:
        """``number`` has left the queue."""
        self.book.taken.pop(number, None)
        if self.book.orders.held.pop(number, None) is not None:
            self.book.save(lambda trouble: None)
