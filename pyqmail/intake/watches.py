"""What the loop of a worker watches for each submission: its connection, and the descriptor that is being read."""

from collections.abc import Callable

from pyqmail.intake.receipt import Receipt
from pyqmail.system.loop import Loop

Deed = Callable[[Receipt], None]
REQUEST_SECONDS = 30.0  # for the request to follow the connection


class Watches:
    """Every deed is done by ``safely``, which lets no bug of one submission reach another."""

    def __init__(self, loop: Loop, safely: Callable[[Receipt, Deed], None]) -> None:
        self._loop = loop
        self._safely = safely

    def request(self, receipt: Receipt, come: Deed, late: Deed) -> None:
        """Do ``come`` when the request is there, ``late`` if it does not come."""
        if receipt.watched.timer is None:
            receipt.watched.timer = self._loop.call_later(REQUEST_SECONDS, lambda: self._safely(receipt, late))
            self.connection(receipt, come)

    def connection(self, receipt: Receipt, deed: Deed) -> None:
        """Do ``deed`` when something comes on the connection, its end included."""
        if not receipt.watched.connection:
            receipt.watched.connection = True
            self._loop.add_reader(receipt.connection.fileno(), lambda: self._safely(receipt, deed))

    def connection_no_more(self, receipt: Receipt) -> None:
        """Neither the connection nor the time for its request."""
        if receipt.watched.timer is not None:
            receipt.watched.timer.cancel()
            receipt.watched.timer = None
        if receipt.watched.connection:
            receipt.watched.connection = False
            self._loop.remove_reader(receipt.connection.fileno())

    def descriptor(self, receipt: Receipt, fd: int, deed: Deed) -> None:
        """Do ``deed`` when there is something to read on ``fd``, and no longer when there is on another."""
        if receipt.watched.descriptor != fd:
            self.descriptor_no_more(receipt)
            receipt.watched.descriptor = fd
            self._loop.add_reader(fd, lambda: self._safely(receipt, deed))

    def descriptor_no_more(self, receipt: Receipt) -> None:
        """Neither message nor envelope."""
        if receipt.watched.descriptor >= 0:
            self._loop.remove_reader(receipt.watched.descriptor)
            receipt.watched.descriptor = -1
