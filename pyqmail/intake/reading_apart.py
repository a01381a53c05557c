"""Reading what may block, or what poll cannot watch, beside the loop of the worker for that uid alone."""

from collections.abc import Callable

from pyqmail.exits import QueueExit
from pyqmail.intake.aside import Aside
from pyqmail.intake.receipt import Receipt
from pyqmail.spool.enqueue import Spool, enqueue


def read_apart(aside: Aside, spool: Spool, receipt: Receipt, finish: Callable[[Receipt, int], None]) -> None:
    """Queue the submission in a thread; ``finish`` gets the exit code, in the loop or, without a thread, at once."""
    receipt.apart = True
    codes = [int(QueueExit.BUG)]

    def read() -> None:
        codes[0] = enqueue(
            spool,
            receipt.uid,
            receipt.submission,
            receipt.handed.message,
            receipt.handed.envelope,
            lambda: not receipt.gone,
            receipt.facts,
        )

    def over() -> None:
        receipt.apart = False
        finish(receipt, codes[0])

    try:
        aside.do(read, over)
    except (OSError, RuntimeError):
        codes[0] = QueueExit.NO_MEMORY
        over()
