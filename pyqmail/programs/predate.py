"""predate: put a Date field with the local zone in front of a message for another program (predate(1))."""

import time

from pyqmail.formats.date822 import format_local_date
from pyqmail.intake.resend import complain
from pyqmail.system import command
from pyqmail.system.errors import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Feed the Date field, then descriptor 0, to the program in ``argv``; its exit code."""
    if len(argv) < 2:
        complain(b"predate: usage: predate child")
        return 100
    return feed(b"predate", argv[1:], environ, b"Date: " + format_local_date(int(time.time())) + b"\n")


def feed(name: bytes, program: "Sequence[bytes]", environ: "Mapping[bytes, bytes]", head: bytes) -> int:
    """The exit code of ``program``, which reads ``head`` and then descriptor 0; 111 if it crashed or cannot run."""
    try:
        code = command.feed(program, environ, head)
    except command.InputTrouble:
        complain(name + b": fatal: unable to copy input")
        return 111
    except OSError as error:
        complain(name + b": fatal: unable to run " + program[0] + b": " + reason(error))
        return 111
    if code < 0:
        complain(name + b": fatal: child crashed")
        return 111
    return code
