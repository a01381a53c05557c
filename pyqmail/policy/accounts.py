"""The accounts behind qmail's roles, from control/conf-users and control/conf-groups (names or numbers).

Looked up when a program starts, as notqmail does. One and the same user, not root, for every role makes the tree
single-user: every program then runs as that user, in any directory, and nobody changes uid.
"""

import os
from collections.abc import Sequence

from pyqmail.control import Control

ROLES = (b"alias", b"qmaild", b"qmaill", b"root", b"qmailp", b"qmailq", b"qmailr", b"qmails")
GROUPS = (b"qmail", b"nofiles")
# Roles that C qmail has not, and the control file that names another user for each.
OWN_ROLES = {"conf-verifier": b"qmailv", "conf-metrics": b"qmailm"}


class AccountMissing(Exception):
    """A user or group that a role needs does not exist; the text is the line to print."""


class Accounts:
    """Numeric ids of the roles; ``alias_name`` is the account name of the alias role."""

    __slots__ = (
        "alias_name",
        "gid_nofiles",
        "gid_qmail",
        "single_user",
        "uid_alias",
        "uid_daemon",
        "uid_log",
        "uid_passwd",
        "uid_queue",
        "uid_remote",
        "uid_root",
        "uid_send",
    )

    def __init__(self, uids: list[int], gids: list[int], alias_name: bytes) -> None:
        (
            self.uid_alias,
            self.uid_daemon,
            self.uid_log,
            self.uid_root,
            self.uid_passwd,
            self.uid_queue,
            self.uid_remote,
            self.uid_send,
        ) = uids
        self.gid_qmail, self.gid_nofiles = gids
        self.alias_name = alias_name
        self.single_user = len(set(uids)) == 1 and uids[0] != 0


def _uid(name: bytes) -> int:
    if name.isdigit():
        return int(name)
    import pwd

    try:
        return pwd.getpwnam(os.fsdecode(name)).pw_uid
    except KeyError:
        raise AccountMissing(f"fatal: unable to find user {os.fsdecode(name)}") from None


def _gid(name: bytes) -> int:
    if name.isdigit():
        return int(name)
    import grp

    try:
        return grp.getgrnam(os.fsdecode(name)).gr_gid
    except KeyError:
        raise AccountMissing(f"fatal: unable to find group {os.fsdecode(name)}") from None


def read_names(home: str) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """The users and groups of ``home``, as they are named and not looked up. Raises as read_accounts does."""
    control = Control(home)
    users = control.lines("conf-users") or ROLES
    groups = control.lines("conf-groups") or GROUPS
    if len(users) != len(ROLES) or len(groups) != len(GROUPS):
        raise AccountMissing("fatal: control/conf-users needs 8 lines and control/conf-groups 2")
    return users, groups


def read_accounts(home: str) -> Accounts:
    """The accounts of ``home``. Raises AccountMissing and ControlUnreadable."""
    users, groups = read_names(home)
    return Accounts([_uid(name) for name in users], [_gid(name) for name in groups], users[0])


def uid_of_own(home: str, accounts: Accounts, file: str) -> int:
    """The user of the role of ``file`` in OWN_ROLES. Raises AccountMissing and ControlUnreadable."""
    if accounts.single_user:
        return accounts.uid_daemon
    return _uid(Control(home).line(file) or OWN_ROLES[file])
