"""qmail-tcpok: forget every timeout, so that all remote hosts are tried again (qmail-tcpok(8))."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from pyqmail.control import home_of
from pyqmail.exits import LocalExit
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.remote.tcpto import LockedTable
from pyqmail.spool.layout import Layout
from pyqmail.system.process import Acting


def table_owner(home: str) -> AbstractContextManager[None]:
    """In which root is the user whose table it is: links of qmailq may lie in its directory. Raises OSError."""
    if os.geteuid() != 0 or os.stat(f"{home}/queue").st_uid == 0:
        return nullcontext()
    accounts = read_accounts(home)
    return Acting(accounts.uid_remote, accounts.gid_qmail)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Clear the table and return the exit code."""
    home = home_of(environ)
    doing = "switch to home directory"
    try:
        os.chdir(home)
        doing = "clear queue/lock/tcpto"
        with table_owner(home), LockedTable(Layout(home, 1).tcpto) as table:
            table.clear()
    except AccountMissing as error:
        os.write(2, f"qmail-tcpok: fatal: {error}\n".encode())
        return LocalExit.TEMPORARY
    except OSError as error:
        os.write(2, f"qmail-tcpok: fatal: unable to {doing}: {(error.strerror or 'error').lower()}\n".encode())
        return LocalExit.TEMPORARY
    return LocalExit.DONE
