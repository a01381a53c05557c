"""forward: queue the message of a .qmail program for other addresses (forward(1))."""

from pyqmail.intake.resend import complain, resend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Send descriptor 0 to the addresses in ``argv``, from NEWSENDER."""
    for name in (b"NEWSENDER", b"DTLINE"):
        if name not in environ:
            complain(b"forward: fatal: " + name + b" not set")
            return 100
    return resend(b"forward", environ, environ[b"NEWSENDER"], argv[1:], 0)
