"""A page of memory that a child shares with its parent: what escaped from the child, read once it has ended.

A child that has no log, and whose standard error is /dev/null, says so what its bug was without a descriptor more. It
may be another user's and write what it likes: what is read is a line of printable text, and not long.
"""

import mmap
from collections.abc import Callable

from pyqmail.formats.printable import printable
from pyqmail.log.bugs import describe_bug

TEXT_MAX = 600  # bytes
CHILD_FAILED = 111


class LastWords:
    """Empty, to be made before the fork. Raises OSError."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def run(self, run: Callable[[], int]) -> int:
        """In the child: what ``run`` returns, or 111, with a description of what escaped from it left here."""
        try:
            return run()
        except BaseException as error:  # the parent must hear of everything
            words = describe_bug(error).encode("utf-8", "replace")[:TEXT_MAX]
            self._page[: len(words)] = words
            return CHILD_FAILED

    def read(self) -> str:
        """In the parent, once: what was left, or nothing. The page is given back."""
        words = self._page[:TEXT_MAX].rstrip(b"\0")
        self._page.close()
        return printable(words).decode()
