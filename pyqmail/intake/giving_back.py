"""Giving back what a client gave: its descriptors and its connection, of which no close may make a worker wait."""

import os
from collections.abc import Callable

from pyqmail.intake.aside import Aside
from pyqmail.intake.parent_link import ParentLink
from pyqmail.intake.receipt import Receipt
from pyqmail.system import foreign
from pyqmail.system.loop import Loop

CLOSE_SECONDS = 5.0  # for closing what a client gave, before the worker asks to be replaced


class GivingBack:
    """What a worker does with the descriptors of a submission that has been answered."""

    def __init__(self, loop: Loop, aside: Aside, parent: ParentLink, over: Callable[[int], None]) -> None:
        """``over`` is called with each job of which nothing is open any more."""
        self._loop = loop
        self._aside = aside
        self._parent = parent
        self._over = over
        self.untouched: list[int] = []  # what a shared worker must not even close

    def pipes(self, receipt: Receipt) -> None:
        """In a shared worker: close pipes only, which our own programs have made."""
        for fd in receipt.handed.descriptors():
            if receipt.draft is not None or foreign.kind(fd) == foreign.PIPE:
                os.close(fd)
            else:
                self.untouched.append(fd)
                self._parent.retire()
        receipt.connection.close()
        self._over(receipt.job)

    def everything(self, receipt: Receipt) -> None:
        """In a worker for one uid: close what is sure at once, the rest beside the loop, with what came unasked."""
        odd = []
        for fd in receipt.handed.descriptors():
            if foreign.kind(fd) == foreign.PIPE:
                os.close(fd)
            else:
                odd.append(fd)
        unasked = foreign.shut(receipt.connection)
        if not odd and unasked is None:
            receipt.connection.close()
            self._over(receipt.job)
            return
        late = self._loop.call_later(CLOSE_SECONDS, self._parent.retire)

        def closed() -> None:
            late.cancel()
            self._over(receipt.job)

        try:
            self._aside.do(lambda: receipt.close_slowly(odd, unasked), closed)
        except (OSError, RuntimeError):
            receipt.close_slowly(odd, unasked)
            closed()
