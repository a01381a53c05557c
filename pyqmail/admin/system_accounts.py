"""The users and groups of a tree: which they are, and making those that are missing."""

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence

from pyqmail.admin.target import SetupError, Target, say
from pyqmail.policy.accounts import GROUPS, OWN_ROLES, ROLES

QUEUE_GROUP_ROLES = ("qmailq", "qmailr", "qmails")  # the other accounts have the powerless group


def names(target: Target, file: str, default: Sequence[bytes]) -> list[str]:
    """The names of users or groups: those of a control file, else qmail's."""
    try:
        data = (target.root / "control" / file).read_text()
    except FileNotFoundError:
        return [os.fsdecode(name) for name in default]
    return [line.strip() for line in data.splitlines() if line.strip() and not line.startswith("#")]


def user_names(target: Target) -> list[str]:
    """The users of all roles, those of OWN_ROLES last."""
    users = names(target, "conf-users", ROLES)
    if len(set(users)) == 1:
        return users + users[:1] * len(OWN_ROLES)  # a single-user tree
    return users + [[*names(target, file, ()), os.fsdecode(default)][0] for file, default in OWN_ROLES.items()]


def make_accounts(target: Target) -> None:
    """Make the groups and users that are missing. Raises SetupError."""
    groups = names(target, "conf-groups", GROUPS)
    for group in groups:
        if not group.isdigit() and not known(grp.getgrnam, group):
            command(["groupadd", "--system", group])
    roles = [os.fsdecode(role) for role in (*ROLES, *OWN_ROLES.values())]
    for role, user in zip(roles, user_names(target), strict=True):
        if user.isdigit() or known(pwd.getpwnam, user):
            continue
        group = groups[0] if role in QUEUE_GROUP_ROLES else groups[1]
        home = f"{target.home}/alias" if role == "alias" else target.home
        made = ["useradd", "--system", "--no-user-group", "--no-create-home", "-g", group, "-d", home]
        command([*made, "-s", "/usr/sbin/nologin", user])


def known(look_up: object, name: str) -> bool:
    """Whether the account database has ``name``."""
    try:
        look_up(name)  # type: ignore[operator]
    except KeyError:
        return False
    return True


def command(words: list[str]) -> None:
    """Run an account tool. Raises SetupError."""
    path = shutil.which(words[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise SetupError(f"{words[0]} is not here: make the user or group {words[-1]} by hand")
    result = subprocess.run([path, *words[1:]], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SetupError(f"{words[0]} {words[-1]}: {result.stderr.strip()}")
    say(1, f"made {'group' if words[0] == 'groupadd' else 'user'} {words[-1]}")
