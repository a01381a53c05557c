"""At most so many deliveries at once for one domain or one user, the others not held up.

Remote deliveries are counted by domain (control/domainconcurrency), local ones by user (control/userconcurrency).  A
pass skips a recipient whose domain or user, its *key*, is full.  What was skipped waits in a line of its key and goes
on as soon as a delivery there ends: an entry is whatever the channel needs to go on with it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from pyqmail.system.typed import Generic, TypeVar

Entry = TypeVar("Entry")
Key = Callable[[bytes], bytes]


def domain_of(recipient: bytes) -> bytes:
    """What limits and holds are looked up by: after the last ``@``, in lower case."""
    return recipient.rpartition(b"@")[2].lower()


def user_of(recipient: bytes, break_char: bytes) -> bytes:
    """The user that a local recipient belongs to: its box up to the first ``break_char``, in lower case.

    That is the account of ``user-ext@host``, and the value of a virtual domain.  The password file is not asked: that
    may take long, and everybody's mail would wait.
    """
    return recipient.rpartition(b"@")[0].partition(break_char)[0].lower()


def share_of(slots: int) -> int:
    """What one key may use of ``slots`` where nothing else is configured: three quarters, and one slot is kept free."""
    return max(1, slots - max(1, slots // 4))


class Shares(Generic[Entry]):
    """Counts deliveries by key, and keeps a line of entries before each key that is full."""

    def __init__(self, key: Key, limits: Mapping[bytes, int], default: int | None = None) -> None:
        """``limits`` by key, ``default`` for all others; None is no limit."""
        self.key = key
        self.limits = limits
        self.default = default
        self._busy: dict[bytes, int] = {}
        self._lines: dict[bytes, deque[Entry]] = {}
        self._open: dict[bytes, None] = {}  # keys with a line and room, first come first served
        self._narrowed: dict[bytes, int] = {}  # limits for a while

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def full(self, key: bytes) -> bool:
        """Whether one more delivery for ``key`` would be too many."""
        busy = self._busy.get(key, 0)
        limit = self.limits.get(key, self.default)
        return (limit is not None and busy >= limit) or (key in self._narrowed and busy >= self._narrowed[key])

    def started(self, key: bytes) -> None:
        """One more delivery for ``key`` is on its way."""
        self._busy[key] = self._busy.get(key, 0) + 1
        if key in self._open and self.full(key):
            del self._open[key]

    def ended(self, key: bytes) -> None:
        """A delivery for ``key`` has reported."""
        left = self._busy.get(key, 0) - 1
        if left > 0:
            self._busy[key] = left
        else:
            self._busy.pop(key, None)
        self._open_if_room(key)

    def hold(self, key: bytes, entry: Entry) -> None:
        """``entry`` waits for ``key``."""
        self._lines.setdefault(key, deque()).append(entry)
        self._open_if_room(key)

    @property
    def has_room(self) -> bool:
        """Whether ``take`` has an entry to give."""
        return bool(self._open)

    def take(self) -> Entry | None:
        """The first entry of a key that has room, the keys in turn; None when there is none."""
        for key in self._open:
            line = self._lines[key]
            entry = line.popleft()
            del self._open[key]
            if line:
                self._open_if_room(key)  # at the end of the row
            else:
                del self._lines[key]
            return entry
        return None

    def take_with(self, key: bytes, most: int, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """The entries at the head of the line of ``key`` up to the first that is not ``wanted``, at most ``most``."""
        line = self._lines.get(key, deque())
        taken: list[Entry] = []
        while line and len(taken) < most and wanted(line[0]):
            taken.append(line.popleft())
        if not line:
            self._lines.pop(key, None)
            self._open.pop(key, None)
        return taken

    def replace(self, limits: Mapping[bytes, int], default: int | None = None) -> None:
        """New limits; what runs and what waits is as before."""
        self.limits = limits
        self.default = default
        self._open = {}
        for key in self._lines:
            self._open_if_room(key)

    def busy(self, key: bytes) -> int:
        """How many deliveries for ``key`` are on their way."""
        return self._busy.get(key, 0)

    def waiting(self, key: bytes) -> bool:
        """Whether something waits for ``key``."""
        return key in self._lines

    def narrow(self, key: bytes, limit: int) -> None:
        """For ``key`` at most ``limit`` until `widen`, 0 for none at all."""
        self._narrowed[key] = limit
        if self.full(key):
            self._open.pop(key, None)
        else:
            self._open_if_room(key)

    def widen(self, key: bytes) -> None:
        """Only the limits hold for ``key`` from now on."""
        self._narrowed.pop(key, None)
        self._open_if_room(key)

    def join(self, key: bytes, other: bytes) -> None:
        """What waits for ``key`` waits for ``other`` from now on."""
        for entry in self._lines.pop(key, ()):
            self._lines.setdefault(other, deque()).append(entry)
        self._open.pop(key, None)
        self._open_if_room(other)

    def entries(self) -> Iterable[Entry]:
        """Everything that waits."""
        return (entry for line in self._lines.values() for entry in line)

    def _open_if_room(self, key: bytes) -> None:
        if key in self._lines and not self.full(key):
            self._open[key] = None
