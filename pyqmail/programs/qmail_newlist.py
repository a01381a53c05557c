"""qmail-newlist: makes the database of a list of qmail-smtpd from the lines on descriptor 0 (qmail-newlist(8)).

The old database stays until the new one is whole. Nothing is printed unless it fails.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

from pyqmail.admin.databases import NotMade, make
from pyqmail.control import home_of
from pyqmail.formats.cdb import replace_cdb, write_cdb
from pyqmail.intake.resend import complain
from pyqmail.policy.patterns import numbered_lines
from pyqmail.system.files import read_all

USAGE = 100
LISTS = (
    b"badhelo",
    b"badhelonorelay",
    b"badmailfrom",
    b"badmailfromnorelay",
    b"badrcptto",
    b"badrcpttonorelay",
    b"validrcptto",
    b"morevalidrcptto",
)
EXPRESSION = frozenset(b"*^$[](){}|\\")  # never part of an address that is worth listing; + and ? may be


def records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The lines of ``data`` in lower case as keys. Raises NotMade for an expression, which no look-up can find."""
    for number, line in numbered_lines(data):
        if line.startswith(b"!") or not EXPRESSION.isdisjoint(line):
            raise NotMade(f"line {number}: an expression cannot be looked up: it belongs into the control file itself")
        yield line.lower(), b""


def make_list(home: str, name: str) -> None:
    """control/``name``.cdb from descriptor 0. Raises NotMade."""
    path = f"{home}/control/{name}.cdb"
    try:
        data = read_all(0)
        os.close(os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
        write_cdb(path + ".tmp", records(data))
        replace_cdb(path + ".tmp", path)
    except OSError as error:
        raise NotMade(f"control/{name}.cdb: {(error.strerror or 'error').lower()}") from None


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0, 100 for a bad call, or 111 with a line on descriptor 2."""
    if len(argv) != 2 or argv[1] not in LISTS:
        complain(b"qmail-newlist: usage: qmail-newlist LIST < LINES, where LIST is one of " + b" ".join(LISTS))
        return USAGE
    return make("qmail-newlist", lambda: make_list(home_of(environ), argv[1].decode("ascii")))
