"""qmail-getpw LOCAL: the account of a local part by the password file (qmail-getpw(8)).

Prints user, uid, gid, homedir, dash and ext, each ended by NUL. Run by qmail-lspawn as qmailp.
"""

from collections.abc import Mapping, Sequence

from pyqmail.control import home_of, read_knobs
from pyqmail.exits import SpawnExit
from pyqmail.local.passwd import LookupTrouble, find_alias, find_user
from pyqmail.policy.accounts import ROLES, AccountMissing, read_accounts, read_names
from pyqmail.policy.users import tree_catch_all
from pyqmail.system.files import write_all


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Print the record of argv[1]; the exit code is for qmail-lspawn."""
    if len(argv) < 2:
        return 100
    local, home = argv[1], home_of(environ)
    try:
        names, _ = read_names(home)
        accounts = None if names is ROLES else read_accounts(home)  # qmail's own names are never all one user's
        if accounts is not None and accounts.single_user:  # passwd would name the real home of the one user
            record = tree_catch_all(home, accounts, local)
        else:
            found = find_user(local, read_knobs(home).break_char)
            record = find_alias(names[0], local) if found is None else found
    except AccountMissing:
        return SpawnExit.NO_ALIAS
    except LookupTrouble as trouble:
        return trouble.code
    write_all(1, record)
    return 0
