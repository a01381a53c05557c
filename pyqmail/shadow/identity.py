"""Who a queue is, whatever the machine is called: queue/pyqmail/id (qmail-shadowd(8))."""

import os
import uuid

from pyqmail.system import files


def read_queue_id(path: str) -> str:
    """The identity of a queue, from its file; made, durably, where there is none. Raises OSError and ValueError.

    It is the same for all who ask, also for those that find none at the same time.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    try:
        files.place_file(f"{path}.{os.getpid()}", path, str(uuid.uuid4()).encode() + b"\n")
    except FileExistsError:
        files.sync_directory(os.path.dirname(path))
    return _read(path)


def _read(path: str) -> str:
    return str(uuid.UUID(files.read_file(path, 64).decode("ascii").strip()))


def boot_id() -> str:
    """Which start of which machine this is (random(4)). Raises OSError."""
    return files.read_file("/proc/sys/kernel/random/boot_id", 64).decode("ascii").strip()
