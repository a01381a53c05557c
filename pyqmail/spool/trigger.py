"""Pulling the trigger: one byte into a FIFO wakes qmail-send (INTERNALS 3). A hint; every error is ignored."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.spool.layout import Layout


def pull_trigger(layout: "Layout") -> None:
    """Tell a running qmail-send to look at todo/; without a reader there is nobody to tell."""
    try:
        fd = os.open(layout.trigger, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b"\0")
    except OSError:
        pass
    finally:
        os.close(fd)
