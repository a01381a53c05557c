"""control/domainconcurrency: at most so many deliveries at once to one remote domain, the others not held up.

A pass skips a recipient whose domain is full.  What was skipped waits in a line of its domain and goes on as soon as a
delivery there ends: an entry is whatever the channel needs to go on with it.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


def domain_of(recipient: bytes) -> bytes:
    """What limits and holds are looked up by: after the last ``@``, in lower case."""
    return recipient.rpartition(b"@")[2].lower()


class DomainLines(Generic[Entry]):
    """Counts deliveries by domain, and keeps a line of entries before each domain that is full."""

    def __init__(self, limits: Mapping[bytes, int]) -> None:
        self.limits = limits
        self._busy: dict[bytes, int] = {}
        self._lines: dict[bytes, deque[Entry]] = {}
        self._open: dict[bytes, None] = {}  # domains with a line and room, first come first served

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def full(self, domain: bytes) -> bool:
        """Whether one more delivery to ``domain`` would be too many."""
        limit = self.limits.get(domain)
        return limit is not None and self._busy.get(domain, 0) >= limit

    def started(self, domain: bytes) -> None:
        """One more delivery to ``domain`` is on its way."""
        self._busy[domain] = self._busy.get(domain, 0) + 1
        if domain in self._open and self.full(domain):
            del self._open[domain]

    def ended(self, domain: bytes) -> None:
        """A delivery to ``domain`` has reported."""
        left = self._busy.get(domain, 0) - 1
        if left > 0:
            self._busy[domain] = left
        else:
            self._busy.pop(domain, None)
        self._open_if_room(domain)

    def hold(self, domain: bytes, entry: Entry) -> None:
        """``entry`` waits for ``domain``."""
        self._lines.setdefault(domain, deque()).append(entry)
        self._open_if_room(domain)

    @property
    def has_room(self) -> bool:
        """Whether ``take`` has an entry to give."""
        return bool(self._open)

    def take(self) -> Entry | None:
        """The first entry of a domain that has room, the domains in turn; None when there is none."""
        for domain in self._open:
            line = self._lines[domain]
            entry = line.popleft()
            del self._open[domain]
            if line:
                self._open_if_room(domain)  # at the end of the row
            else:
                del self._lines[domain]
            return entry
        return None

    def replace(self, limits: Mapping[bytes, int], running: Iterable[bytes]) -> None:
        """New limits, and the domains of all deliveries on their way."""
        self.limits = limits
        self._busy = {}
        for domain in running:
            self._busy[domain] = self._busy.get(domain, 0) + 1
        self._open = {}
        for domain in self._lines:
            self._open_if_room(domain)

    def entries(self) -> Iterable[Entry]:
        """Everything that waits."""
        return (entry for line in self._lines.values() for entry in line)

    def _open_if_room(self, domain: bytes) -> None:
        if domain in self._lines and not self.full(domain):
            self._open[domain] = None
