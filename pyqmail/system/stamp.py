"""What tells whether a file is still the one that was looked at before."""

import os

Stamp = tuple[int, int, int, int, int]  # device, inode, size, mtime and ctime in nanoseconds


def stamp_of(found: os.stat_result) -> Stamp:
    """The stamp in the answer of a stat."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def stamp(path: str | bytes) -> Stamp | None:
    """The stamp of the file at ``path``; None when there is none, or none that we may see."""
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None
