"""Whether a name and a password are those of a user in a database of accounts, asked now (qmail-accounts(8))."""

import os

from pyqmail.control import ControlUnreadable
from pyqmail.login.account_settings import AccountsTrouble, read_settings
from pyqmail.login.account_source import load_source
from pyqmail.login.answer import Answer
from pyqmail.login.passwords import HashFormat
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts
from pyqmail.policy.users import UsersDatabase, parse_assignment
from pyqmail.system.process import become

PASSWORD = "password"  # the setting


def check_account(home: str, address: bytes, password: bytes) -> Answer:
    """The answer of the database. Never raises; the process is qmailp afterwards, where it was root.

    The library is imported, and the settings are read, before that.
    """
    try:
        settings, accounts = read_settings(home), read_accounts(home)
        if not settings.get(PASSWORD):
            return Answer.NO
        open_source = load_source(settings)
        if os.geteuid() == 0 and not accounts.single_user:
            become(accounts.uid_passwd, accounts.gid_nofiles, [accounts.gid_nofiles])
        return Answer.YES if open_source(settings).knows(address.lower().decode(), password) else Answer.NO
    except UnicodeDecodeError:
        return Answer.NO  # the names of the database are UTF-8
    except (AccountsTrouble, AccountMissing, ControlUnreadable, HashFormat, OSError, MemoryError):
        return Answer.LATER


def mailbox_record(home: str, accounts: Accounts, address: bytes) -> tuple[int, int, bytes] | None:
    """Uid, gid and directory of the mailbox of ``address``, by users/cdb; None if it has none. Raises UsersTrouble."""
    name, _, domain = address.lower().rpartition(b"@")
    users = UsersDatabase(home, accounts)
    for local in (domain + b"-" + name, domain + b"-" + name + b"/mailbox"):
        record = users.find(local)
        found = None if record is None else parse_assignment(record)
        if found is not None and not found.dash and not found.ext:
            return found.uid, found.gid, found.homedir
    return None
