"""A clock that nobody sets, and that does not stand still while the machine is suspended."""

import time


def since_boot() -> float:
    """Seconds since the start of this machine, the same for all of its processes (CLOCK_BOOTTIME, clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
