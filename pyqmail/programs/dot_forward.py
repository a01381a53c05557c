"""dot-forward: do what a .forward file of sendmail's says (dot-forward(1))."""

from pyqmail.control import ControlUnreadable
from pyqmail.intake.resend import Fatal, complain
from pyqmail.local.forward_file import Forwarding
from pyqmail.options import UsageError, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

USAGE = b"dot-forward: usage: dot-forward [ -nN ] file ..."


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Obey the first of the files that exists and says anything; 0 when there is none."""
    try:
        letters, names = parse_options(argv[1:], b"nN")
    except UsageError as error:
        complain(b"dot-forward: " + error.text)
        complain(USAGE)
        return 100
    describe = bool(letters) and letters[-1][0] == b"n"
    if not names:
        return 0
    try:
        return Forwarding(environ, describe=describe).run(names)
    except ControlUnreadable as error:
        complain(b"dot-forward: fatal: unable to read controls: " + str(error).encode())
        return 111
    except Fatal as error:
        if error.text:
            complain(b"dot-forward: fatal: " + error.text)
        return error.code
