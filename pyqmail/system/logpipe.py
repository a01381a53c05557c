"""A line for a log that may be full or stopped: the one who serves a client is never held up for long by its logger."""

import errno
import os
import select

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
