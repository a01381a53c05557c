"""A line for a log that may be full or stopped: the one who serves a client is never held up for long by its logger."""

import errno
import os
import select
import stat

LINE_MAX = 4096  # a pipe takes this much in one piece or not at all (PIPE_BUF)
_RWF_NOWAIT = 8  # pwritev2(2); Python names it for reading only


def write_line(fd: int, line: bytes, wait_s: float, *, regular: bool = False) -> bool:
    """Write ``line`` (at most LINE_MAX bytes, newline included) in one write; false when it was given up.

    A pipe that is full is waited for, at most ``wait_s`` seconds at a time. Where the kernel knows no such write an
    ordinary one follows once there is room; a ``regular`` file needs neither. Never raises.
    """
    try:
        if regular:
            os.write(fd, line)
            return True
        while True:
            try:
                os.pwritev(fd, (line,), -1, _RWF_NOWAIT)
                return True
            except BlockingIOError:
                if not select.select([], [fd], [], wait_s)[1]:
                    return False
    except OSError as error:
        if regular or error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE):
            return False
    try:
        if not select.select([], [fd], [], wait_s)[1]:
            return False
        os.write(fd, line)
        return True
    except OSError:
        return False


class LogWriter:
    """The log on a descriptor, for one who serves on whatever becomes of it.

    A full pipe is waited for once, ``WAIT_S`` seconds; from then on lines are dropped until it takes one again, and the
    first line after that says how many are missing.
    """

    WAIT_S = 1.0

    def __init__(self, fd: int, name: bytes) -> None:
        self._fd = fd
        self._name = name
        self._mode: int | None = None
        self._lost = 0

    def write(self, text: bytes) -> None:
        """Write the lines in ``text``, in one write where a pipe takes them so. Never raises."""
        if self._mode is None:
            self._mode = self._look()
        if not stat.S_ISFIFO(self._mode):
            self._write_through(text)
            return
        while text:
            end = len(text) if len(text) <= LINE_MAX else text.rfind(b"\n", 0, LINE_MAX) + 1 or LINE_MAX
            self._write_piece(text[:end])
            text = text[end:]

    def _look(self) -> int:
        try:
            return os.fstat(self._fd).st_mode
        except OSError:
            return 0

    def _write_through(self, text: bytes) -> None:
        try:
            os.write(self._fd, text)
        except OSError:
            return

    def _write_piece(self, piece: bytes) -> None:
        lines = piece.count(b"\n")
        if self._lost:
            note = self._name + b": warning: %d lines of the log were lost: it took none\n" % self._lost
            if not write_line(self._fd, note, 0):
                self._lost += lines
                return
            self._lost = 0
        if not write_line(self._fd, piece, self.WAIT_S):
            self._lost += lines
