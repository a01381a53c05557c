"""A node's lease: until when nobody else may deliver what this queue has (qmail-shadowd(8)).

The database's clock ends it, MARGIN of its length later than the node, whose own monotonic clock counts from before the
question. So clocks that differ do no harm, and a node stops before another one may begin.
"""

import time
from collections.abc import Callable

from pyqmail.shadow.settings import Settings
from pyqmail.shadow.store import Away, Fenced, Node, Store, Taken

MARGIN = 0.2
RENEWALS = 4  # in the time of one lease
AGAIN_S = 2.0  # after a failure


class Lease:
    """Taken and kept in a thread of its own. ``until``: how long it is held, in monotonic seconds; 0 for not at all."""

    def __init__(
        self, settings: Settings, queue: str, machine: str, tell: Callable[[Node | None, float, str], None]
    ) -> None:
        """``tell`` is called from the thread: who we are, None for nobody; until when; what is wrong, if anything."""
        self._settings = settings
        self._queue = queue
        self._machine = machine
        self._tell = tell
        self._node: Node | None = None
        self._until = 0.0

    def keep(self, store: Store) -> None:
        """Never returns."""
        while True:
            began = time.monotonic()
            trouble = self._step(store)
            if trouble is None:
                self._until = began + self._settings.lease_s
            self._tell(self._node, self._until, trouble or "")
            time.sleep(AGAIN_S if trouble is not None else self._settings.lease_s / RENEWALS)

    def _step(self, store: Store) -> str | None:
        """Have it for its whole length from now; what went wrong, if anything did."""
        seconds = self._settings.lease_s * (1 + MARGIN)
        try:
            if self._node is None:
                self._node = store.register(self._queue, self._settings.name, self._machine, seconds)
            else:
                store.renew(self._node, self._machine, seconds)
            return None
        except Away as error:
            return str(error)
        except Taken as error:
            return str(error)
        except Fenced:
            self._node, self._until = None, 0.0
            return "others have adopted the messages of this queue"
