"""Another program gets lines of ours and then descriptor 0: a field in front of a message (predate(1), preline(1))."""

from pyqmail.intake.resend import complain
from pyqmail.system import command
from pyqmail.system.errors import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def feed(
    name: bytes, program: "Sequence[bytes]", environ: "Mapping[bytes, bytes]", head: bytes, *, delivers: bool = False
) -> int:
    """The exit code of ``program``, which reads ``head`` and then descriptor 0; 111 if it crashed or cannot run.

    In a delivery (``delivers``) one that never will run is 100, as qmail-command(8) has it. What went wrong is said.
    """
    try:
        code = command.feed(program, environ, head)
    except command.InputTrouble:
        complain(name + b": fatal: unable to copy input")
        return 111
    except OSError as error:
        complain(name + b": fatal: unable to run " + program[0] + b": " + reason(error))
        return command.exec_failure(error) if delivers else 111
    if code < 0:
        complain(name + b": fatal: child crashed")
        return 111
    return code


def feed_dated(program: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """``feed`` in predate's name, with the Date field of now in the local zone."""
    import time

    from pyqmail.formats.date822 import format_local_date  # mailsubj needs no date

    return feed(b"predate", program, environ, b"Date: " + format_local_date(int(time.time())) + b"\n")
