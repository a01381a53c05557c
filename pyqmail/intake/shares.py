"""Who counts as one: a user, and with him the subordinate uids that he may take (subuid(5)).

Read from the files themselves: the parent of qmail-queued asks no name service, which may be slow to answer.
"""

import os

FILE_MAX = 1 << 20  # of each file that is read: who has more ranges than that is counted by uid
SUBUID = "/etc/subuid"
PASSWD = "/etc/passwd"


def parse_ranges(data: bytes) -> list[tuple[int, int, bytes]]:
    """First uid, end and owner of each range; what is no range is left out."""
    ranges = []
    for line in data.split(b"\n"):
        words = line.split(b":")
        if len(words) == 3 and words[0] and words[1].isdigit() and words[2].isdigit():
            ranges.append((int(words[1]), int(words[1]) + int(words[2]), words[0]))
    return ranges


def parse_uid(data: bytes, name: bytes) -> int | None:
    """The uid of ``name`` in a passwd file, or the number that it is; None for neither."""
    if name.isdigit():
        return int(name)
    for line in data.split(b"\n"):
        words = line.split(b":")
        if len(words) > 2 and words[0] == name and words[2].isdigit():
            return int(words[2])
    return None


class Shares:
    """Whose share a uid has its part of."""

    def __init__(self, subuid: str = SUBUID, passwd: str = PASSWD) -> None:
        self._subuid = subuid
        self._passwd = passwd
        self._stamp: tuple[int, int, int] | None = None
        self._ranges: list[tuple[int, int, bytes]] = []
        self._owners: dict[bytes, int | None] = {}

    def of(self, uid: int) -> int:
        """The uid that ``uid`` counts with: the owner of the subordinate range that it lies in, else itself.

        A range whose owner nobody knows counts as one too, by its first uid.
        """
        self._refresh()
        for first, end, owner in self._ranges:
            if first <= uid < end:
                known = self._owner(owner)
                return first if known is None else known
        return uid

    def _refresh(self) -> None:
        try:
            status = os.stat(self._subuid)
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            stamp = (0, 0, 0)
        if stamp != self._stamp:
            self._stamp = stamp
            self._ranges = parse_ranges(start_of(self._subuid))
            self._owners.clear()

    def _owner(self, name: bytes) -> int | None:
        if name not in self._owners:
            self._owners[name] = parse_uid(start_of(self._passwd), name)
        return self._owners[name]


def start_of(path: str) -> bytes:
    """The first FILE_MAX bytes of ``path``; nothing when it cannot be read."""
    try:
        with open(path, "rb", 0) as file:
            return file.read(FILE_MAX) or b""
    except OSError:
        return b""
