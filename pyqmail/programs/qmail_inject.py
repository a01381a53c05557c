"""qmail-inject: complete a message's header, find out who gets it, and queue it (qmail-inject(8), qmail-header(5))."""

from pyqmail.intake.inject import inject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Queue the message on descriptor 0."""
    return inject(argv, environ)
