"""datemail: sendmail with a Date field in the local zone (datemail(1))."""

import os

from pyqmail.control import home_of
from pyqmail.intake.feeding import feed_dated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """``predate sendmail`` with our arguments."""
    return feed_dated([os.fsencode(home_of(environ)) + b"/bin/sendmail", *argv[1:]], environ)
