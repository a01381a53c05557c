"""Who has come before: a newcomer waits, and is known once it has come again (greylisting, RFC 6647)."""

import struct
from hashlib import blake2b

from pyqmail.protocol.state import NUMBER_MAX
from pyqmail.state.table import Table

_FIRST = struct.Struct("<IB")  # when it came first, and whether it has come again
DIGEST_BYTES = 16  # a stranger's words take no more room than that


class Firsts:
    """The newcomers in ``table``. ``now`` is in seconds of a clock that only goes forward."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def left(self, key: bytes, wait_s: int, again_s: int, keep_s: int, now: float) -> int:
        """Seconds that ``key`` still has to wait, 0 for one that is known.

        One that comes again after ``wait_s``, and before ``again_s`` are over, is known for ``keep_s`` from each time
        that it comes.
        """
        name, second = blake2b(key, digest_size=DIGEST_BYTES).digest(), int(now)
        value = self._table.get(name, second)
        first, known = (second, 0) if value is None else _FIRST.unpack(value)
        left = 0 if known else max(0, first + wait_s - second)
        if not left:
            self._table.put(name, _FIRST.pack(first, 1), min(second + keep_s, NUMBER_MAX))
        elif value is None:
            self._table.put(name, _FIRST.pack(first, 0), min(second + max(wait_s, again_s), NUMBER_MAX))
        return left
