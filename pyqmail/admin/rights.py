"""What strangers wrote is not read as root: a command of the administrator becomes qmail-verifyd's user for it."""

import os

from pyqmail.policy.accounts import read_accounts, uid_of_own
from pyqmail.system.process import become


def drop_rights(home: str) -> None:
    """Become qmail-verifyd's user, if this is root. Raises AccountMissing, ControlUnreadable and OSError."""
    accounts = read_accounts(home)
    if os.geteuid() == 0 and not accounts.single_user:
        become(uid_of_own(home, accounts, "conf-verifier"), accounts.gid_nofiles, [accounts.gid_nofiles])
