"""printforward: show a forwarding database as setforward reads it (printforward(1)).

Its complaints begin with printmaillist, as those of the original do.
"""

import os

from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.formats.forwarding import BadFormat, format_instruction
from pyqmail.intake.resend import complain
from pyqmail.system.files import read_all, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(argv: "Sequence[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Print the database on descriptor 0, which may be a pipe: 0, 100 for what is no such database, 111."""
    try:
        fd = seekable(0)
        write_all(1, b"".join([format_instruction(key, data) for key, data in Cdb(fd).records()]))
    except (BadFormat, CdbCorrupt):
        complain(b"printmaillist: fatal: bad database format")
        return 100
    except OSError as error:
        complain(b"printmaillist: fatal: unable to copy the database: " + (error.strerror or "").encode())
        return 111
    return 0


def seekable(fd: int) -> int:
    """``fd``, or a copy of what it holds where it cannot be read at a place. Raises OSError."""
    try:
        os.pread(fd, 1, 0)
        return fd
    except OSError:
        copy = os.memfd_create("database")
        write_all(copy, read_all(fd))
        return copy
