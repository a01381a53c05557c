"""bouncesaying: bounce a message, perhaps only if a program says so (bouncesaying(1))."""

from pyqmail.intake.resend import complain, defers
from pyqmail.system.command import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Say ``argv[1]`` and bounce, unless the program in ``argv[2:]`` exits nonzero; 111 defers."""
    if len(argv) < 2:
        complain(b"bouncesaying: usage: bouncesaying error [ program [ arg ... ] ]")
        return 100
    code = run(argv[2:], environ) if len(argv) > 2 else 0
    if code == 0:
        complain(argv[1])
        return 100
    return 111 if defers(b"bouncesaying", code) else 0
