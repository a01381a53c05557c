"""Numbers for the submissions of programs that serve many messages and so have one pid for all of them."""

import os
import time

from pyqmail.system import files

FIRST_SERIAL = 4194305  # above any pid of the kernel
SERIAL_BLOCK = 10000  # reserved on disk ahead of their use
LAST_SERIAL = (1 << 62) - 1  # what is above has not come from here


def parse_serial(data: bytes) -> int | None:
    """The number in a counter file, None for what no counter file holds."""
    digits = data.removesuffix(b"\n")
    if not digits.isdigit() or not FIRST_SERIAL <= int(digits) <= LAST_SERIAL:
        return None
    return int(digits)


class Serials:
    """Submission numbers that never repeat: each block is on disk as used before the first of it is given out.

    Where the file has lost its number, the tenths of microseconds since 1970 are above any that can have
    been given out.
    """

    def __init__(self, path: str, *, used: bool = False) -> None:
        """``used``: numbers have been given out here before, so that a missing file is a loss too."""
        self.path = path
        self.next = self.reserved = self._first(used=used)

    def take(self) -> int:
        """The next serial. Raises OSError when no more can be reserved."""
        if self.next >= self.reserved:
            self._reserve(self.next + SERIAL_BLOCK)
        self.next += 1
        return self.next - 1

    def take_many(self, count: int) -> tuple[int, int]:
        """The next ``count`` serials, as the first and what follows the last. Raises OSError as ``take`` does."""
        if self.next + count > self.reserved:
            self._reserve(self.next + count + SERIAL_BLOCK)
        self.next += count
        return self.next - count, self.next

    def _first(self, *, used: bool) -> int:
        try:
            with open(self.path, "rb") as file:
                found, why = parse_serial(file.read(64)), "holds no number"
        except FileNotFoundError:
            if not used:
                return FIRST_SERIAL
            found, why = None, "is missing"
        except OSError as error:
            found, why = None, os.strerror(error.errno or 0)
        if found is not None:
            return found
        first = max(FIRST_SERIAL, time.time_ns() // 100)
        _say(f"run/serial: {why}; numbers go on at {first}")
        return first

    def _reserve(self, end: int) -> None:
        for path in (self.path, self.path + ".new"):
            _clear_away(path)
        fd = os.open(self.path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            files.write_all(fd, b"%d\n" % end)
            files.sync(fd)
        finally:
            os.close(fd)
        files.rename(self.path + ".new", self.path)
        files.sync_directory(os.path.dirname(self.path))
        self.reserved = end


def _clear_away(path: str) -> None:
    """Rename a directory that stands where a file belongs. Raises OSError."""
    if os.path.isdir(path) and not os.path.islink(path):
        os.rename(path, f"{path}.directory.{time.time_ns()}")


def _say(text: str) -> None:
    try:
        os.write(2, b"qmail-queued: warning: " + text.encode("utf-8", "replace") + b"\n")
    except OSError:
        return
