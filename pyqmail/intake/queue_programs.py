"""What programs in the place of qmail-queue have in common: words of their own, and the program that comes next."""

import os
from collections.abc import Collection, Mapping

from pyqmail.exits import QueueExit

TEXT_FD = 6


def refuse(environ: Mapping[bytes, bytes], text: bytes) -> int:
    """Tell the client ``text``, which begins with D or Z, where that is heard; the exit code (qmail-queue(8))."""
    place = environ.get(b"ERROR_FD", b"")
    try:
        os.write(int(place) if place.isdigit() else TEXT_FD, text)
    except OSError:
        return QueueExit.REFUSED if text[:1] == b"D" else QueueExit.CONFIGURATION
    return QueueExit.CUSTOM_ERROR if place else QueueExit.CUSTOM


def hand_on(
    home: str, program: bytes, environ: Mapping[bytes, bytes], files: Mapping[int, int], *, without: Collection[bytes]
) -> int:
    """Become ``program``, or qmail-queue if it is empty, with each of ``files`` on its descriptor from the beginning.

    $QMAILQUEUE and the variables ``without`` are not passed on. Comes back with an exit code only if that cannot be.
    """
    path = os.path.join(home, os.fsdecode(program or b"bin/qmail-queue"))
    further = {name: value for name, value in environ.items() if name != b"QMAILQUEUE" and name not in without}
    try:
        for target, file in files.items():
            os.lseek(file, 0, os.SEEK_SET)
            os.dup2(file, target)
        os.execve(path, [path], further)
    except (OSError, ValueError):
        return QueueExit.EXEC_FAILED
