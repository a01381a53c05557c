"""What the attacks share: a device of FUSE and a place to mount on."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spool.queue_tree import ORDINARY_UID


@pytest.fixture
def fuse() -> Iterator[tuple[Path, Path]]:
    """A directory to mount on, and the device, open to everybody as distributions have it."""
    if "fuse" not in Path("/proc/filesystems").read_text():
        pytest.skip("no FUSE here")
    place = Path("/tmp") / f"pyqmail-silent-{os.getpid()}"
    place.mkdir(mode=0o755)
    (place / "mnt").mkdir()
    os.chown(place / "mnt", ORDINARY_UID, ORDINARY_UID)
    try:
        os.mknod(place / "fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
        (place / "fuse").chmod(0o666)
        yield place / "mnt", place / "fuse"
    finally:
        (place / "fuse").unlink(missing_ok=True)
        (place / "mnt").rmdir()
        place.rmdir()
