"""predate: put a Date field with the local zone in front of a message for another program (predate(1))."""

from pyqmail.intake.feeding import feed_dated
from pyqmail.intake.resend import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Feed the Date field, then descriptor 0, to the program in ``argv``; its exit code."""
    if len(argv) < 2:
        complain(b"predate: usage: predate child")
        return 100
    return feed_dated(argv[1:], environ)
