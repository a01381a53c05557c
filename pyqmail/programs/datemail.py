"""datemail: sendmail with a Date field in the local zone (datemail(1))."""

import os

from pyqmail.control import home_of
from pyqmail.programs import predate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """``predate sendmail`` with our arguments."""
    sendmail = os.fsencode(home_of(environ)) + b"/bin/sendmail"
    return predate.main([b"predate", sendmail, *argv[1:]], environ)
