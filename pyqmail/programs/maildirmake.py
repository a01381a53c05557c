"""maildirmake: create an empty Maildir (maildirmake(1))."""

import os

from pyqmail.intake.resend import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Make the directory ``argv[1]`` with tmp, new and cur, all for their owner alone; 111 if any cannot be made."""
    if len(argv) < 2:
        complain(b"maildirmake: usage: maildirmake name")
        return 100
    os.umask(0o077)
    try:
        for name in (argv[1], argv[1] + b"/tmp", argv[1] + b"/new", argv[1] + b"/cur"):
            os.mkdir(name, 0o700)
    except OSError as error:
        from pyqmail.system.errors import reason

        complain(b"maildirmake: fatal: unable to mkdir " + name + b": " + reason(error))
        return 111
    return 0
