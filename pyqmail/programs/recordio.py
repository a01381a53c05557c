"""recordio: shows on descriptor 2 what passes between a program and its network (recordio(1)).

Each piece is one line: the program's process number, `<` for input or `>` for output, the bytes, and how they ended:
a space after a whole line, `+` where it goes on or breaks off; `[EOF]` at the end.
"""

import os
from collections.abc import Mapping, Sequence

from pyqmail.system.between import Look, stand_between
from pyqmail.system.process import cannot_run

USAGE = 100
FAILED = 111
PIECE = 256  # the original reads so much at once, and a line that goes on in the next piece is cut there


def recorder(head: bytes) -> Look:
    """What records a direction: each line starts with ``head``."""

    def look(data: bytes) -> bytes:
        try:
            os.write(2, record(head, data))
        except OSError:
            return data
        return data

    return look


def record(head: bytes, data: bytes) -> bytes:
    """The lines for one piece of traffic, b"" being its end."""
    if not data:
        return head + b"[EOF]\n"
    lines = [
        head + (line[:-1] + b" \n" if line.endswith(b"\n") else line + b"+\n")
        for start in range(0, len(data), PIECE)
        for line in _lines(data[start : start + PIECE])
    ]
    return b"".join(lines)


def _lines(data: bytes) -> list[bytes]:
    """The lines of ``data``, each with its LF; the last may have none."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """It becomes the program; 100 for a bad call, 111 if it cannot run."""
    if len(argv) < 2:
        os.write(2, b"recordio: usage: recordio program [ arg ... ]\n")
        return USAGE
    pid = os.getpid()
    try:
        stand_between(argv[1:], environ, recorder(b"%d < " % pid), recorder(b"%d > " % pid))
    except OSError as error:
        os.write(2, cannot_run(b"recordio", argv[1], error))
    return FAILED
