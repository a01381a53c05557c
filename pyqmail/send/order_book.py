"""The orders in force in a running qmail-send, and what they keep from being tried."""

from collections.abc import Callable, Collection

from pyqmail.send.holds import Orders, format_orders, write_orders
from pyqmail.send.means import Means
from pyqmail.send.shares import domain_of

CHANNELS = ("local", "remote")


class OrderBook:
    """Orders and their file. ``parked``: by channel, the number of what is withheld to when it was due."""

    def __init__(self, means: Means) -> None:
        self.orders = Orders()
        self.parked: dict[str, dict[int, int]] = {name: {} for name in CHANNELS}
        self.early: dict[int, tuple[str, Callable[[], None]]] = {}  # for messages in todo/: who and what; how
        self.taken: dict[int, object] = {}  # to be moved to another node, by who has taken them
        self._means = means

    def park(self, channel: str, number: int, now: int) -> bool:
        """Keep ``number``, which is due, if it is held."""
        if number not in self.orders.held and number not in self.taken:
            return False
        self.parked[channel][number] = now
        return True

    def stops(self, number: int) -> bool:
        """Whether no further delivery of ``number`` may start."""
        orders = self.orders
        return number in orders.held or number in orders.endings or number in self.taken or number in self.early

    def withholds_recipient(self, recipient: bytes) -> bool:
        """Whether the domain of ``recipient`` is held."""
        return bool(self.orders.domains) and domain_of(recipient) in self.orders.domains

    def ends(self, number: int) -> bool:
        """Whether ``number`` is about to be deleted or bounced."""
        return number in self.orders.endings

    def unpark(self, numbers: Collection[int]) -> list[tuple[str, int]]:
        """``numbers`` are held no more; the channels and numbers of what became due meanwhile."""
        for number in numbers:
            self.orders.held.pop(number, None)
        return self._due(numbers)

    def give_back(self, owner: object) -> list[tuple[str, int]]:
        """What ``owner`` has taken is tried again; the channels and numbers of what became due meanwhile."""
        numbers = [number for number, taker in self.taken.items() if taker is owner]
        for number in numbers:
            del self.taken[number]
        return self._due(numbers)

    def _due(self, numbers: Collection[int]) -> list[tuple[str, int]]:
        """Of ``numbers``, what is parked and need be no more; it is no longer here then."""
        free = [number for number in numbers if number not in self.orders.held and number not in self.taken]
        return [
            (name, number)
            for number in free
            for name, parked in self.parked.items()
            if parked.pop(number, None) is not None
        ]

    def gone(self, number: int) -> None:
        """Nothing is ordered for ``number`` any more."""
        self.orders.endings.pop(number, None)
        self.orders.held.pop(number, None)
        self.taken.pop(number, None)
        for parked in self.parked.values():
            parked.pop(number, None)

    def save(self, saved: Callable[[str], None]) -> None:
        """Put all orders on disk; ``saved`` gets what went wrong, or an empty text."""
        layout, data = self._means.layout, format_orders(self.orders)

        def write() -> Callable[[], None]:
            try:
                write_orders(layout, data)
            except OSError as error:
                trouble = f"unable to write queue/pyqmail: {(error.strerror or 'error').lower()}"
                return lambda: saved(trouble)
            return lambda: saved("")

        self._means.background.submit(write)
