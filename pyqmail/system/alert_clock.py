"""A clock that forked processes share, so that a hundred of them complain of one thing once (mmap(2), MAP_SHARED)."""

import mmap
import time

ALERT_S = 60.0


class AlertClock:
    """One alert a minute for all processes that were forked after this was made.

    ``AlertClock.inherited`` is set by a parent before it forks workers.
    """

    inherited: "AlertClock | None" = None

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)

    def close(self) -> None:
        """Have it no more, in a child that goes on as somebody else."""
        self._shared.close()

    def due(self) -> bool:
        """Whether nobody has said anything for a minute; now somebody has."""
        now = int(time.monotonic() * 1000) + 1
        last = int.from_bytes(self._shared[:8], "little")
        if last and now - last < ALERT_S * 1000:
            return False
        self._shared[:8] = now.to_bytes(8, "little")
        return True
