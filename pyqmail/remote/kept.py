"""The connection that waits for the next delivery to the same place (control/remotereuse, qmail-remote(8))."""

import select
import time

from pyqmail.remote.connection import Connection
from pyqmail.remote.controls import Controls
from pyqmail.remote.routes import Route


class KeptConnection:
    """A connection between two deliveries, who it was for, and until when it may wait (monotonic seconds)."""

    __slots__ = ("connection", "controls", "target", "until")

    def __init__(self, connection: Connection, target: Route | bytes, controls: Controls) -> None:
        self.connection = connection
        self.target = target
        self.controls = controls
        self.until = time.monotonic() + controls.reuse_s

    def leads_to(self, packed: bytes, port: int, controls: Controls) -> bool:
        """Whether the next delivery to that address may use it."""
        connection = self.connection
        same = (connection.packed, connection.port) == (packed, port)
        return same and self.controls is controls and connection.reusable()


class Keeping:
    """At most one connection is kept. The clock is monotonic."""

    def __init__(self) -> None:
        self._kept: KeptConnection | None = None

    def keep(self, connection: Connection, target: Route | bytes, controls: Controls) -> None:
        """Keep ``connection``, which was made for ``target``."""
        self._kept = KeptConnection(connection, target, controls)

    def release(self) -> KeptConnection | None:
        """What is kept, which is then the caller's."""
        kept, self._kept = self._kept, None
        return kept

    def take(self, target: Route | bytes, controls: Controls) -> Connection | None:
        """The connection that is kept, if it was made for ``target``; no look-up is needed then."""
        kept = self._kept
        if kept is None or kept.target != target or kept.controls is not controls:
            return None
        self._kept = None
        if kept.connection.reusable():
            return kept.connection
        kept.connection.close()
        return None

    def wait(self, fd: int) -> None:
        """Return once ``fd`` is readable, or no connection is kept: its time is over, or the peer closed it."""
        while (kept := self._kept) is not None:
            left_s = max(0.0, kept.until - time.monotonic())
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.register(kept.connection.fileno(), select.POLLIN)
            if any(ready == fd for ready, _ in poll.poll(left_s * 1000)):
                return
            self.close()

    def close(self) -> None:
        """Say goodbye on a connection that is kept."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            kept.connection.quit()
