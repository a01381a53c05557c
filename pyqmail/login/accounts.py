"""Whether a name and a password are those of a virtual user or, by PAM, of the system (checkpassword(8))."""

import hmac
import os
import pwd
import sys
from dataclasses import dataclass

from pyqmail.control import ControlUnreadable
from pyqmail.login import passwords
from pyqmail.login.virtual_users import VirtualUnreadable, VirtualUser, find_user

PAM_SERVICE = "pop3"
# What PAM says when it cannot know: not that the password is wrong (pam(3))
PAM_TROUBLE = frozenset((1, 2, 3, 4, 5, 9, 14, 15, 18, 20, 21, 22, 24, 25, 26, 28, 29, 31))


class Refused(Exception):
    """The name or the password is wrong, or the account may not be used."""


class Temporary(Exception):
    """It cannot be known now."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom to become. ``groups`` None: all that the account's name is a member of."""

    user: bytes
    uid: int
    gid: int
    home: bytes
    shell: bytes
    groups: tuple[int, ...] | None


def check_virtual(home: str, address: bytes, password: bytes, stamp: bytes) -> Account:
    """The virtual user ``address``. Raises Refused and Temporary."""
    try:
        user = find_user(home, address)
        if user is None:
            passwords.waste_time(password)
            raise Refused
        right = passwords.verify_password(user.password_hash, password)
    except (VirtualUnreadable, passwords.HashFormat, MemoryError):
        raise Temporary from None
    if user.secret and stamp and hmac.compare_digest(passwords.apop_digest(stamp, user.secret), password):
        right = True
    if not right:
        raise Refused
    return virtual_account(user)


def virtual_account(user: VirtualUser) -> Account:
    """Whom a virtual user's mail belongs to."""
    return Account(user.address, user.uid, user.gid, user.home, b"/bin/sh", (user.gid,))


def load_pam() -> None:
    """Import what asks PAM: 40 ms, since it has ldconfig(8) look for two libraries. Raises Temporary."""
    try:
        import pamela  # noqa: F401
    except (ImportError, OSError, TypeError, AttributeError):
        raise Temporary from None


def prepare_pam() -> None:
    """Load PAM once, and the modules of its service: 4 ms for each check that is forked from this process later.

    A transaction that never ends holds them; nothing of them has run. What the service names by the time of a check is
    what decides, whether it is here or not. Raises Temporary.
    """
    if "pamela" in sys.modules:
        return
    load_pam()
    import pamela

    try:
        pamela.pam_start(PAM_SERVICE, b"root", pamela.new_simple_password_conv((), "utf-8"))
    except pamela.PAMError:
        return  # each check meets the same, and says so


def check_system(name: bytes, password: bytes) -> Account:
    """The account ``name`` of the system. Raises Refused and Temporary."""
    load_pam()
    import pamela

    try:
        # a tuple: one password, for the one question that is asked
        pamela.authenticate(name, (password,), service=PAM_SERVICE, resetcred=0)
    except pamela.PAMError as error:
        if error.errno in PAM_TROUBLE:
            raise Temporary from None
        raise Refused from None
    account = system_account(name)
    if without_password(name):
        raise Refused
    return account


def system_account(name: bytes) -> Account:
    """The account ``name`` of the system. Raises Refused."""
    try:
        entry = pwd.getpwnam(os.fsdecode(name))
    except KeyError:
        raise Refused from None
    home, shell = os.fsencode(entry.pw_dir), os.fsencode(entry.pw_shell)
    return Account(os.fsencode(entry.pw_name), entry.pw_uid, entry.pw_gid, home, shell, None)


def without_password(name: bytes) -> bool:
    """Whether the account has an empty password, which PAM takes any password for where it says nullok."""
    try:
        with open("/etc/shadow", "rb") as source:
            return any(line.startswith(name + b"::") for line in source)
    except OSError:
        return False


def authenticate(home: str, name: bytes, password: bytes, stamp: bytes) -> Account:
    """The account behind ``name`` if ``password`` is right. Raises Refused and Temporary."""
    if not name or not password:
        raise Refused
    account = check_virtual(home, name, password, stamp) if b"@" in name else check_system(name, password)
    if account.uid == 0:
        raise Refused  # nobody guesses root's password here
    return account


def look_up(home: str, name: bytes) -> Account:
    """The account behind ``name``, whose password somebody else has checked. Raises Refused and Temporary."""
    try:
        user = find_user(home, name) if b"@" in name else None
    except VirtualUnreadable:
        raise Temporary from None
    if user is not None:
        account = virtual_account(user)
    else:
        account = (_mailbox_account(home, name) if b"@" in name else None) or system_account(name)
    if account.uid == 0:
        raise Refused
    return account


def _mailbox_account(home: str, address: bytes) -> Account | None:
    """Whom the mailbox of an address belongs to by users/cdb (qmail-accounts(8)). Raises Temporary."""
    from pyqmail.login.account_check import mailbox_record
    from pyqmail.policy.accounts import AccountMissing, read_accounts
    from pyqmail.policy.users import UsersTrouble

    try:
        found = mailbox_record(home, read_accounts(home), address)
    except (UsersTrouble, AccountMissing, ControlUnreadable):
        raise Temporary from None
    return None if found is None else Account(address, found[0], found[1], found[2], b"/bin/sh", (found[1],))
