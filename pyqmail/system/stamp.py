"""What tells whether a file is still the one that was looked at before."""

import os

Stamp = tuple[int, int, int, int, int]  # device, inode, size, mtime and ctime in nanoseconds
SETTLED_NS = 100_000_000  # a file changed less than this ago may change again within one tick of its time stamp
COARSE_NS = 2_100_000_000  # the same where the filesystem counts whole seconds


def stamp_of(found: os.stat_result) -> Stamp:
    """The stamp in the answer of a stat."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def stamp(path: str | bytes) -> Stamp | None:
    """The stamp of the file at ``path``; None when there is none, or none that we may see."""
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None


def settled(changed_ns: int, now_ns: int) -> bool:
    """Whether the time stamp ``changed_ns`` of a file stands for one state of it only."""
    return now_ns - changed_ns > (SETTLED_NS if changed_ns % 1_000_000_000 else COARSE_NS)
