"""printmaillist: show a binary mailing list as setmaillist reads it (printmaillist(1))."""

from pyqmail.formats.forwarding import BadFormat, format_list
from pyqmail.intake.resend import complain
from pyqmail.system.files import read_all, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Print the list on descriptor 0; 111 for any trouble."""
    try:
        write_all(1, format_list(read_all(0)))
    except BadFormat:
        complain(b"printmaillist: fatal: bad mailing list format")
        return 111
    except OSError as error:
        complain(b"printmaillist: fatal: unable to copy the list: " + (error.strerror or "").encode())
        return 111
    return 0
