"""A queue that nobody serves, and that nobody can begin to serve meanwhile."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pyqmail.admin.running import serving
from pyqmail.spool.layout import Layout


class InUse(Exception):
    """Something of the tree runs; the text says what."""


@contextmanager
def at_rest(layout: Layout) -> Iterator[None]:
    """A context with the locks of qmail-send and of qmail-queued. Raises InUse, and OSError for what never ran.

    Root opens what lesser users may have arranged: no link is followed, no named pipe waited at.
    """
    with ExitStack() as locks:
        for path in (layout.sendmutex, layout.run_lock):
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            locks.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUse(f"{path} is locked: stop qmail first") from None
        for pid, words in serving(layout.home):  # a worker may go on for a while without its service
            raise InUse(f"{pid} runs: {words}: stop qmail first")
        yield
