"""Values by key, each until its time: what qmail-stated has in memory, and its form in a file.

Times are seconds of a clock that only goes forward (state/clock). Where there is no more room the entry that was made
first goes first.
"""

import struct
from collections.abc import Iterator

_ENTRY = struct.Struct("<HBI")  # in a file: length of the key, of the value, and when it expires
_EXPIRES = struct.Struct("<I")


class Damaged(ValueError):
    """The bytes are no table."""


class Table:
    """At most ``most`` entries. In memory a value is one object of bytes: when it expires, and the value."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: int) -> bytes | None:
        """The value of ``key``."""
        entry = self._entries.get(key)
        return None if entry is None or _EXPIRES.unpack_from(entry)[0] <= now else entry[4:]

    def put(self, key: bytes, value: bytes, expires: int) -> None:
        """Keep ``value``, which has at most 255 bytes, until ``expires``."""
        if key not in self._entries and len(self._entries) >= self._most:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = _EXPIRES.pack(expires) + value

    def remove(self, key: bytes) -> None:
        """Forget ``key``."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()

    def sweep(self, now: int) -> None:
        """Forget what has expired."""
        expires = _EXPIRES.unpack_from
        for key in [key for key, entry in self._entries.items() if expires(entry)[0] <= now]:
            del self._entries[key]

    def items(self, now: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values."""
        for key, entry in self._entries.items():
            if _EXPIRES.unpack_from(entry)[0] > now:
                yield key, entry[4:]

    def format(self) -> bytearray:
        """All entries, as ``parse`` takes them."""
        data, pack = bytearray(), _ENTRY.pack
        for key, entry in self._entries.items():
            data += pack(len(key), len(entry) - 4, _EXPIRES.unpack_from(entry)[0])
            data += key
            data += entry[4:]
        return data

    def parse(self, data: bytes) -> None:
        """Take what ``format`` gave. Raises Damaged."""
        at = 0
        while at < len(data):
            try:
                key, value, expires = _ENTRY.unpack_from(data, at)
            except struct.error:
                raise Damaged("an entry is cut") from None
            middle = at + _ENTRY.size + key
            if middle + value > len(data):
                raise Damaged("an entry is cut")
            self.put(data[at + _ENTRY.size : middle], data[middle : middle + value], expires)
            at = middle + value
