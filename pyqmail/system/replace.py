"""A file that readers see either as it was or as it will be: written aside, synced, renamed. Light imports."""

import os

from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.system.files import Path

CHUNK = 1 << 16


def replace_file(temporary: "Path", path: "Path", data: bytes) -> None:
    """Put a file with ``data``, readable by all, in the place of ``path``. Raises OSError: then that is as it was.

    ``temporary`` names the new file until it is whole; both lie on one filesystem.
    """
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        files.write_all(fd, data)
        os.fchmod(fd, 0o644)
        files.sync(fd)
    finally:
        os.close(fd)
    files.rename(temporary, path)
    files.sync_directory(os.path.dirname(path) or ("." if isinstance(path, str) else b"."))


def read_all(fd: int) -> bytes:
    """Everything up to the end of ``fd``. Raises OSError."""
    chunks = []
    while chunk := os.read(fd, CHUNK):
        chunks.append(chunk)
    return b"".join(chunks)


def read_file(path: "Path") -> bytes:
    """What the file ``path`` holds. Raises OSError."""
    fd = files.open_read(path)
    try:
        return read_all(fd)
    finally:
        os.close(fd)
