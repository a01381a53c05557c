"""setmaillist: make a binary mailing list from lines (setmaillist(1))."""

from pyqmail.formats.forwarding import SourceError, parse_list_lines
from pyqmail.intake.resend import complain
from pyqmail.system.files import read_all, replace_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Convert descriptor 0 to the list ``argv[1]`` by way of ``argv[2]``: 0, 100 for usage, 111 for all else."""
    if len(argv) < 3:
        complain(b"setmaillist: usage: setmaillist list.bin list.tmp")
        return 100
    try:
        replace_file(argv[2], argv[1], parse_list_lines(read_all(0)))
    except SourceError as error:
        complain(b"setmaillist: fatal: " + error.text)
        return 111
    except OSError as error:
        complain(b"setmaillist: fatal: unable to replace " + argv[1] + b": " + (error.strerror or "").encode())
        return 111
    return 0
