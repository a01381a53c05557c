"""fixcrio: adds a CR before each LF without one, in both directions between a program and its network (fixcrio(1))."""

import os
from collections.abc import Mapping, Sequence

from pyqmail.system.between import stand_between
from pyqmail.system.process import cannot_run

USAGE = 100
FAILED = 111


class Fixer:
    """One direction. A line that breaks off at the end stays as it is."""

    def __init__(self) -> None:
        self._after_cr = False

    def __call__(self, data: bytes) -> bytes:
        """``data`` with its line ends repaired; pieces may break anywhere."""
        if not data:
            return b""
        start = b""
        if self._after_cr and data.startswith(b"\n"):
            start, data = b"\n", data[1:]
        self._after_cr = data.endswith(b"\r")
        return start + data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """It becomes the program; 100 for a bad call, 111 if it cannot run."""
    if len(argv) < 2:
        os.write(2, b"fixcrio: usage: fixcrio program [ arg ... ]\n")
        return USAGE
    try:
        stand_between(argv[1:], environ, Fixer(), Fixer())
    except OSError as error:
        os.write(2, cannot_run(b"fixcrio", argv[1], error))
    return FAILED
