"""Who a queue is, whatever the machine is called: queue/pyqmail/id (qmail-shadowd(8))."""

import os
import uuid

from pyqmail.system import files


def read_queue_id(path: str) -> str:
    """The identity of a queue, from its file; made, durably, where there is none. Raises OSError and ValueError."""
    try:
        return str(uuid.UUID(files.read_file(path, 64).decode("ascii").strip()))
    except FileNotFoundError:
        fresh = str(uuid.uuid4())
        files.replace_file(f"{path}.{os.getpid()}", path, fresh.encode() + b"\n")
        return fresh


def boot_id() -> str:
    """Which start of which machine this is (random(4)). Raises OSError."""
    return files.read_file("/proc/sys/kernel/random/boot_id", 64).decode("ascii").strip()
