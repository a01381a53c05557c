"""condredirect: send a message elsewhere if a program says so (condredirect(1))."""

import os

from pyqmail.intake.resend import complain, defers, resend
from pyqmail.system.command import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REDIRECTED = 99  # qmail-local: this delivery is done, leave the other lines out


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Run ``argv[2:]``; on 0 redirect to ``argv[1]`` from SENDER, on 111 defer, else let the next line have it."""
    if len(argv) < 3:
        complain(b"condredirect: usage: condredirect newaddress program [ arg ... ]")
        return 100
    code = run(argv[2:], environ)
    if code != 0:
        return 111 if defers(b"condredirect", code) else 0
    for name in (b"SENDER", b"DTLINE"):
        if name not in environ:
            complain(b"condredirect: fatal: " + name + b" not set")
            return 100
    try:
        os.lseek(0, 0, os.SEEK_SET)
    except OSError:
        complain(b"condredirect: fatal: unable to rewind message")
        return 111
    return resend(b"condredirect", environ, environ[b"SENDER"], [argv[1]], REDIRECTED)
