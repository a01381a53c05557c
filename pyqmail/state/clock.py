"""The clock of what is kept: seconds that only go forward, whatever is done to the clock of the machine.

It runs as the monotonic clock does. A file keeps its time, and as long as the machine has not been started again the
next process goes on exactly; after that the wall clock says how long it was off, by at most a day.
"""

import time
from collections.abc import Callable

OFF_MAX_S = 86400  # that a machine is believed to have been off
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def read_boot_id() -> bytes:
    """What names this start of the machine; ``-`` where the kernel does not say."""
    try:
        with open(BOOT_ID, "rb") as file:
            return file.read(64).strip() or b"-"
    except OSError:
        return b"-"


class Clock:
    """Seconds; tests hand in clocks of their own."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._offset = 0.0  # from the monotonic clock to ours
        self._boot = read_boot_id()

    def now(self) -> float:
        """The time."""
        return self._monotonic() + self._offset

    def format(self) -> bytes:
        """What ``go_on`` needs: four words."""
        return b"%b %.3f %.3f %.3f" % (self._boot, self._offset, self.now() + 0.001, self._wall())

    def go_on(self, words: list[bytes]) -> None:
        """Go on where the process ended whose ``format`` this is. Raises ValueError."""
        boot, offset, then, wall = words
        if boot == self._boot and boot != b"-":
            self._offset = float(offset)
            return
        off = min(max(0.0, self._wall() - float(wall)), OFF_MAX_S)
        self._offset = float(then) + off - self._monotonic()
