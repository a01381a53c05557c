"""qmail-tcpok: forget every timeout, so that all remote hosts are tried again (qmail-tcpok(8))."""

import os
from collections.abc import Mapping, Sequence

from pyqmail.control import home_of
from pyqmail.exits import LocalExit
from pyqmail.remote.tcpto import LockedTable
from pyqmail.spool.layout import Layout


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Clear the table and return the exit code."""
    home = home_of(environ)
    doing = "switch to home directory"
    try:
        os.chdir(home)
        doing = "clear queue/lock/tcpto"
        with LockedTable(Layout(home, 1).tcpto) as table:
            table.clear()
    except OSError as error:
        os.write(2, f"qmail-tcpok: fatal: unable to {doing}: {(error.strerror or 'error').lower()}\n".encode())
        return LocalExit.TEMPORARY
    return LocalExit.DONE
