"""The file that qmail-stated leaves to the next process: one line, and the tables.

    pyqmail-state 1 CRC BOOT OFFSET NOW WALL     CRC is of what follows it

It is replaced whole, and not synced: after a power cut it may be an older one, or torn, and a torn file is not read.
"""

import os
import zlib
from collections.abc import Sequence

from pyqmail.state.clock import Clock
from pyqmail.state.table import Damaged, Table
from pyqmail.system import files

FILE_MAX = 256 << 20  # bytes
MAGIC = b"pyqmail-state 1 "


def save(path: str, clock: Clock, tables: Sequence[Table]) -> None:
    """Replace the file. Raises OSError."""
    parts: list[bytes | bytearray] = [clock.format() + b"\n"]
    for table in tables:
        entries = table.format()
        parts += [b"%d\n" % len(entries), entries]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    files.unlink_if_present(path + ".new")
    fd = files.create_exclusive(path + ".new", 0o600)
    try:
        files.write_all(fd, b"%b%d " % (MAGIC, crc))
        for part in parts:
            files.write_all(fd, part)
    finally:
        os.close(fd)
    files.rename(path + ".new", path)


def load(path: str, clock: Clock, tables: Sequence[Table]) -> None:
    """Take what is in the file, if there is one. Raises Damaged, with nothing taken, and OSError."""
    try:
        data = files.read_file(path, FILE_MAX)
    except FileNotFoundError:
        return
    crc, _, body = data.removeprefix(MAGIC).partition(b" ")
    try:
        if not data.startswith(MAGIC) or int(crc) != zlib.crc32(body):
            raise Damaged("it is torn")
        when, _, body = body.partition(b"\n")
        clock.go_on(when.split(b" "))
        for table in tables:
            length, _, body = body.partition(b"\n")
            table.parse(body[: int(length)])
            body = body[int(length) :]
    except Damaged:
        raise
    except ValueError as error:
        raise Damaged(f"it is none: {error}") from None
