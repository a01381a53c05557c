"""Constant databases, read and written through cdblib (the distribution pure-cdb); qmail-users(5), cdb(5).

The reader reads by pread rather than through a map: a file cut short under a map kills the process that looks, and here
that is qmail-lspawn. A damaged file raises CdbCorrupt and never makes a look-up run for ever.
"""

import os
import struct

import cdblib

from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAIR = struct.Struct("<LL")
HEADER = 2048  # 256 pairs of table position and slot count
SLICE_MAX = 64 << 20  # of a key or of its data: a list of addresses at the most
PROBES_MAX = 100_000  # slots looked at for one key: a whole table has a few, one made to hurt has millions


class CdbCorrupt(Exception):
    """The file is not a whole constant database."""


class _BoundedFile:
    """The bytes behind a descriptor as cdblib slices them; every slice lies inside the file, or CdbCorrupt."""

    def __init__(self, fd: int) -> None:
        self.size = os.fstat(fd).st_size
        self.fd = fd
        self.header = os.pread(fd, HEADER, 0)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        start, stop = part.start, part.stop
        if not 0 <= start <= stop <= self.size or stop - start > SLICE_MAX:
            raise CdbCorrupt
        if stop <= len(self.header):
            return self.header[start:stop]
        data = os.pread(self.fd, stop - start, start)
        if len(data) != stop - start:
            raise CdbCorrupt
        return data


class Cdb:
    """One open database. ``fd`` stays the caller's; raises CdbCorrupt and OSError."""

    def __init__(self, fd: int) -> None:
        self._file = _BoundedFile(fd)
        if len(self._file.header) < HEADER:
            raise CdbCorrupt
        self._reader = cdblib.Reader(data=self._file)
        if any(position + 8 * slots > self._file.size for position, slots in self._reader.index):
            raise CdbCorrupt

    def get(self, key: bytes) -> bytes | None:
        """The data of the first record with ``key``; None when there is none. Raises CdbCorrupt.

        Not cdblib's: it takes a table without an empty slot for one that has not got the key, and so would bounce mail.
        """
        _, hashed = self._reader.hash_key(key)
        table, slots = self._reader.index[hashed & 255]
        for probe in range(min(slots, PROBES_MAX)):
            slot = table + 8 * (((hashed >> 8) + probe) % slots)
            found, at = PAIR.unpack(self._file[slot : slot + 8])
            if at == 0:
                return None
            if found == hashed:
                key_size, data_size = PAIR.unpack(self._file[at : at + 8])
                if self._file[at + 8 : at + 8 + key_size] == key:
                    return self._file[at + 8 + key_size : at + 8 + key_size + data_size]
        if slots:
            raise CdbCorrupt
        return None

    def records(self) -> "Iterator[tuple[bytes, bytes]]":
        """Every key and its data, in the order in which they were written. Raises CdbCorrupt."""
        end = min((position for position, slots in self._reader.index if slots), default=HEADER)
        at = HEADER
        while at < end:
            key_size, data_size = PAIR.unpack(self._file[at : at + 8])
            if at + 8 + key_size + data_size > end:
                raise CdbCorrupt
            both = self._file[at + 8 : at + 8 + key_size + data_size]
            yield both[:key_size], both[key_size:]
            at += 8 + key_size + data_size


def write_cdb(path: str, records: "Iterable[tuple[bytes, bytes]]") -> None:
    """Write ``records`` in order to the file ``path``, mode 0644 less the umask, and sync it. Raises OSError."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o644)) as target:
        with cdblib.Writer(target) as writer:
            for key, data in records:
                writer.put(key, data)
        target.flush()
        files.sync(target.fileno())


def replace_cdb(temporary: str, path: str) -> None:
    """Put the finished file ``temporary`` in the place of ``path``, durably: readers see the old one or the new."""
    files.rename(temporary, path)
    files.sync_directory(os.path.dirname(path) or ".")
