"""qmail-tcpto: print the table of hosts that timed out (qmail-tcpto(8)). Errors go to stdout too; 111 then."""

import os
import time
from collections.abc import Mapping, Sequence

from pyqmail.control import home_of
from pyqmail.exits import LocalExit
from pyqmail.remote.tcpto import LockedTable, parse_table
from pyqmail.spool.layout import Layout


def format_table(table: bytes, now: int) -> bytes:
    """One line for each record in use, in the order of the table."""
    lines = [
        b"%d.%d.%d.%d timed out %d seconds ago; # recent timeouts: %d\n" % (*entry.key, now - entry.when, entry.count)
        for _, entry in parse_table(table)
        if entry.count
    ]
    return b"".join(lines)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Print the table and return the exit code."""
    home = home_of(environ)
    doing = "switch to home directory"
    try:
        os.chdir(home)
        doing = "read queue/lock/tcpto"
        with LockedTable(Layout(home, 1).tcpto) as table:
            data = table.read()
    except OSError as error:
        os.write(1, f"fatal: unable to {doing}: {(error.strerror or 'error').lower()}\n".encode())
        return LocalExit.TEMPORARY
    text = format_table(data, int(time.time()))
    while text:
        text = text[os.write(1, text) :]
    return LocalExit.DONE
