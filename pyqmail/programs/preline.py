"""preline: give a .qmail program the lines that a mailbox would have (preline(1))."""

from pyqmail.intake.feeding import feed
from pyqmail.intake.resend import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINES = ((b"f", b"UFLINE"), (b"r", b"RPLINE"), (b"d", b"DTLINE"))
USAGE = b"preline: usage: preline cmd [ arg ... ]"


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Feed the From_, Return-Path and Delivered-To lines, then descriptor 0, to the program; its exit code."""
    ready = all(name in environ for _letter, name in LINES)
    left_out, program = arguments(argv[1:]) if ready else (set(), [])
    if not program:
        complain(USAGE)
        return 100
    head = b"".join(environ[name] for letter, name in LINES if letter not in left_out)
    return feed(b"preline", program, environ, head, delivers=True)


def arguments(words: "Sequence[bytes]") -> "tuple[set[bytes], Sequence[bytes]]":
    """The letters of the lines to leave out, and the program: none if an option is wrong, which is said."""
    left_out: set[bytes] = set()
    if not words or not words[0].startswith(b"-"):
        return left_out, words
    from pyqmail.options import UsageError, parse_options

    try:
        options, program = parse_options(words, b"frdFRD")
    except UsageError as error:
        complain(b"preline: " + error.text)
        return left_out, []
    for letter, _argument in options:  # a capital letter puts a line back
        left_out.add(letter) if letter.islower() else left_out.discard(letter.lower())
    return left_out, program
