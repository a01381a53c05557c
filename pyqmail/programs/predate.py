"""predate: put a Date field with the local zone in front of a message for another program (predate(1))."""

import os
import time

from pyqmail.formats.date822 import format_local_date
from pyqmail.spool.resend import complain
from pyqmail.system import command
from pyqmail.system.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNK = 65536


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Feed the Date field, then descriptor 0, to the program in ``argv``; its exit code."""
    if len(argv) < 2:
        complain(b"predate: usage: predate child")
        return 100
    return feed(b"predate", argv[1:], environ, b"Date: " + format_local_date(int(time.time())) + b"\n")


def feed(name: bytes, program: "Sequence[bytes]", environ: "Mapping[bytes, bytes]", head: bytes) -> int:
    """The exit code of ``program``, which reads ``head`` and then descriptor 0; 111 if it crashed or cannot run."""
    try:
        source, sink = os.pipe2(os.O_CLOEXEC)
        process = command.start(program, environ, source)
    except OSError as error:
        complain(name + b": fatal: unable to run " + program[0] + b": " + (error.strerror or "").encode())
        return 111
    os.close(source)
    try:
        write_all(sink, head)
        while chunk := os.read(0, CHUNK):
            write_all(sink, chunk)
    except BrokenPipeError:
        pass  # it has read what it wanted: its exit code counts
    except OSError as error:
        complain(name + b": fatal: unable to copy input: " + (error.strerror or "").encode())
        return 111
    os.close(sink)
    return command.finish(process)
