"""A node's lease: until when nobody else may deliver what this queue has (qmail-shadowd(8)).

The database's clock ends it, MARGIN of its length later than the node, which counts from before the question, in
seconds since its machine's boot. So clocks that differ do no harm, and a node stops before another one may begin.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from pyqmail.shadow.database import Away
from pyqmail.shadow.nodes import Nodes, Taken
from pyqmail.shadow.settings import Settings
from pyqmail.shadow.store import Fenced, Node
from pyqmail.system.boot_clock import since_boot

MARGIN = 0.2
RENEWALS = 4  # in the time of one lease
AGAIN_S = 2.0  # after a failure


@dataclass(frozen=True, slots=True)
class Held:
    """Who we are, None for nobody; what others have taken of ours; until when we are that, in seconds since boot."""

    node: Node | None
    taken: frozenset[str]
    until: float


NOTHING = Held(None, frozenset(), 0.0)


class Lease:
    """Taken and kept in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        queue: str,
        machine: str,
        present: Collection[str],
        tell: Callable[[Held, str], None],
    ) -> None:
        """``present``: the copies of messages that the queue has, or has had.

        ``tell`` is called from the thread with what is held, and what is wrong, if anything.
        """
        self._settings = settings
        self._queue = queue
        self._machine = machine
        self._present = present
        self._tell = tell
        self._held = NOTHING

    def keep(self, nodes: Nodes) -> None:
        """Never returns."""
        while True:
            began = since_boot()
            trouble = self._step(nodes)
            if trouble is None:
                self._held = replace(self._held, until=began + self._settings.lease_s)
            self._tell(self._held, trouble or "")
            time.sleep(AGAIN_S if trouble is not None else self._settings.lease_s / RENEWALS)

    def _step(self, nodes: Nodes) -> str | None:
        """Have it for its whole length from now; what went wrong, if anything did."""
        seconds = self._settings.lease_s * (1 + MARGIN)
        try:
            if self._held.node is None:
                node = nodes.register(self._queue, self._settings.name, self._machine, seconds, self._present)
                self._held = Held(node, nodes.taken(node), 0.0)
                self._present = ()
            else:
                nodes.renew(self._held.node, self._machine, seconds)
            return None
        except Away as error:
            return str(error)
        except Taken as error:
            return str(error)
        except Fenced:
            self._held = NOTHING
            return "others have adopted the messages of this queue"
