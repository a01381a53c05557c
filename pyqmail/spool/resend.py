"""Queueing a message anew from inside a .qmail program: the Delivered-To line, then descriptor 0 (forward(1))."""

import os

from pyqmail.control import home_of
from pyqmail.spool.submit import Submission

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNK = 65536


def resend(
    program: bytes, environ: "Mapping[bytes, bytes]", sender: bytes, recipients: "Sequence[bytes]", done: int
) -> int:
    """Queue DTLINE and descriptor 0 for ``recipients``; says on descriptor 2 how it went.

    ``done`` when it is queued, 100 when the queue refuses it for good, else 111.
    """
    submission = Submission.open(home_of(environ), environ, direct=True)
    submission.write(environ[b"DTLINE"])
    try:
        while chunk := os.read(0, CHUNK):
            submission.write(chunk)
    except OSError:
        submission.fail()
    answer = submission.close(sender, recipients)
    letter, text = submission.answer_text(answer)
    if letter == b"K":
        complain(b"%s: qp %d" % (program, answer.number))
        return done
    complain(program + b": fatal: unable to forward message: " + text)
    return 100 if letter == b"D" else 111


def complain(text: bytes) -> None:
    """One line on descriptor 2; nobody listening changes nothing."""
    try:
        os.write(2, text + b"\n")
    except OSError:
        return
