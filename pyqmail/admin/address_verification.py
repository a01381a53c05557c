"""What ``sendmail -bv`` and ``-bt`` do: qmail-explain for each address (sendmail(8))."""

import os

from pyqmail.formats.address_list import parse_addresses
from pyqmail.intake.resend import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def read_addresses() -> "Iterator[bytes]":
    """The lines of descriptor 0; of sendmail's ``3,0 address`` what follows the rule sets."""
    with open(0, "rb", closefd=False) as lines:
        for line in lines:
            yield line.strip().split(b" ", 1)[-1] if line[:1].isdigit() else line


def verify_addresses(home: str, words: "Iterable[bytes]", environ: "Mapping[bytes, bytes]") -> int:
    """Say for each address what would become of mail; the highest exit code of qmail-explain."""
    program = os.fsencode(home) + b"/bin/qmail-explain"
    code = 0
    for address in (address for word in words for address in parse_addresses(word)):
        try:
            child = os.posix_spawn(program, [program, address], environ)
        except OSError as error:
            complain(b"sendmail: fatal: unable to run qmail-explain: " + (error.strerror or "").encode())
            return 111
        code = max(code, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return code
