"""The connection that waits for the next delivery to the same place (control/remotereuse, qmail-remote(8))."""

import select
import time
from collections.abc import Callable
from dataclasses import replace

from pyqmail.remote.connection import Connection, Place
from pyqmail.remote.controls import Controls
from pyqmail.remote.security import Target


class KeptConnection:
    """A connection between two deliveries, who it was for, and until when it may wait (monotonic seconds)."""

    __slots__ = ("connection", "controls", "target", "until")

    def __init__(self, connection: Connection, target: Target, controls: Controls) -> None:
        self.connection = connection
        self.target = target
        self.controls = controls
        self.until = time.monotonic() + controls.reuse_s

    def leads_to(self, place: Place, controls: Controls) -> bool:
        """Whether the next delivery to ``place`` may use it."""
        connection, had = self.connection, self.connection.place
        # in clear, and with nothing asked for, the name of a host says nothing about it
        named = connection.secured is not None or place.security.must
        same = had == place if named else had == replace(place, exchanger=had.exchanger)
        return same and self.controls is controls and connection.reusable()


class Keeping:
    """At most one connection is kept. The clock is monotonic."""

    def __init__(self) -> None:
        self._kept: KeptConnection | None = None

    def keep(self, connection: Connection, target: Target, controls: Controls) -> None:
        """Keep ``connection``, which was made for ``target``."""
        self._kept = KeptConnection(connection, target, controls)

    def release(self) -> KeptConnection | None:
        """What is kept, which is then the caller's."""
        kept, self._kept = self._kept, None
        return kept

    def take(self, target: Target, controls: Controls, fits: Callable[[Place], bool]) -> Connection | None:
        """The connection that is kept, if it was made for ``target`` and ``fits``; no look-up is needed then."""
        kept = self._kept
        if kept is None or kept.target != target or kept.controls is not controls or not fits(kept.connection.place):
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
