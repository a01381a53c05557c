"""newinclude: make a binary mailing list from an :include: file of sendmail's (newinclude(1))."""

from pyqmail.control import ControlUnreadable
from pyqmail.formats.aliases import ListError, parse_include
from pyqmail.intake.resend import complain
from pyqmail.local.completion import completion
from pyqmail.system.files import read_file, replace_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Convert the file ``argv[1]`` to ``argv[1]``.bin: 0, 100 for usage, 111 for all else."""
    if len(argv) < 2:
        complain(b"newinclude: usage: newinclude list")
        return 100
    name = argv[1]
    try:
        replace_file(name + b".tmp", name + b".bin", parse_include(read_file(name), completion(environ)))
    except ListError as error:
        complain(b"newinclude: fatal: %b: line %d: %b" % (name, error.line, error.text))
        return 111
    except ControlUnreadable as error:
        complain(b"newinclude: fatal: unable to read controls: " + str(error).encode())
        return 111
    except OSError as error:
        complain(b"newinclude: fatal: unable to convert " + name + b": " + (error.strerror or "").encode())
        return 111
    return 0
