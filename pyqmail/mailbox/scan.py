"""What lies in a Maildir for a program that reads it: qmail-pop3d(8), maildir2mbox(1), maildir(5).

Paths are relative to the current directory, which is the Maildir.
"""

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Entry = tuple[int, bytes, int]  # mtime in seconds, name with its directory (new/x or cur/x), size in bytes

STALE_S = 129600  # 36 hours: what was last read or written before that in tmp/ is nobody's any more


def clean_tmp(now: int) -> None:
    """Remove what deliveries that died have left in tmp/. What cannot be looked at or removed stays."""
    try:
        names = os.listdir(b"tmp")
    except OSError:
        return
    for name in names:
        if name.startswith(b"."):
            continue
        try:
            if now > int(os.stat(b"tmp/" + name).st_atime) + STALE_S:
                os.unlink(b"tmp/" + name)
        except OSError:
            continue


def scan(now: int) -> "list[Entry]":
    """The messages in new/ and cur/, oldest first; equal times in a fixed order. Raises OSError naming the directory.

    What is no regular file is no message: directories of other programs, FIFOs, sockets.
    Only those older than this very second: a delivery within it could still get a place before them.
    """
    return sorted(entry for folder in (b"new", b"cur") for entry in _entries(folder, now))


def _entries(folder: bytes, now: int) -> "Iterator[Entry]":
    for name in os.listdir(folder):
        if name.startswith(b"."):
            continue
        path = folder + b"/" + name
        try:
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and int(status.st_mtime) < now:
            yield int(status.st_mtime), path, status.st_size
