"""Numbers for the submissions of programs that serve many messages and so have one pid for all of them."""

import os

from pyqmail.system import files

FIRST_SERIAL = 4194305  # above any pid of the kernel
SERIAL_BLOCK = 10000  # reserved on disk ahead of their use


class Serials:
    """Submission numbers that never repeat: each block is on disk as used before the first of it is given out."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.next = self.reserved = max(FIRST_SERIAL, self._read())

    def take(self) -> int:
        """The next serial. Raises OSError when no more can be reserved."""
        if self.next >= self.reserved:
            self._reserve(self.next + SERIAL_BLOCK)
        self.next += 1
        return self.next - 1

    def _read(self) -> int:
        try:
            with open(self.path, "rb") as file:
                return int(file.read(64))
        except (FileNotFoundError, ValueError):
            return 0

    def _reserve(self, end: int) -> None:
        fd = os.open(self.path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            files.write_all(fd, b"%d\n" % end)
            files.sync(fd)
        finally:
            os.close(fd)
        files.rename(self.path + ".new", self.path)
        files.sync_directory(os.path.dirname(self.path))
        self.reserved = end
