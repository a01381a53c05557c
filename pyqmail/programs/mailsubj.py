"""mailsubj: send a message with a subject to some people (mailsubj(1)). The recipients are header text."""

import os

from pyqmail.control import home_of
from pyqmail.intake.feeding import feed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")  # they would begin other fields


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Give qmail-inject a header with ``argv[1]`` as subject and the rest as To, then descriptor 0."""
    subject, *recipients = (word.translate(LINE_ENDS) for word in argv[1:] or [b""])
    head = b"Subject: " + subject + b"\nTo: " + b", ".join(word for word in recipients if word) + b"\n\n"
    return feed(b"mailsubj", [os.fsencode(home_of(environ)) + b"/bin/qmail-inject"], environ, head)
