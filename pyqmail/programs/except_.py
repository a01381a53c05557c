"""except: turn the answer of a .qmail program round (except(1))."""

from pyqmail.intake.resend import complain, defers
from pyqmail.system.command import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Bounce (100) if the program in ``argv[1:]`` exits 0, defer (111) if it does, else succeed."""
    if len(argv) < 2:
        complain(b"except: usage: except program [ arg ... ]")
        return 100
    code = run(argv[1:], environ)
    if defers(b"except", code):
        return 111
    return 100 if code == 0 else 0
