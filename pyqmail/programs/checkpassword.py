"""checkpassword: checks a name and a password, then becomes the user and goes on as another program (checkpassword(8)).

    checkpassword PROGRAM [ARGUMENT ...]        3< NAME \\0 PASSWORD \\0 STAMP \\0

A name with ``@`` is a virtual user (qmail-vuser(8)), any other one an account of the system, which PAM is asked about.
Whatever is wrong with name and password, the answer is the same and comes after the same time.
"""

import hmac
import os
import pwd
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyqmail.control import home_of
from pyqmail.policy import passwords
from pyqmail.policy.virtual_users import VirtualUnreadable, find_user

REQUEST_MAX = 512
REQUEST_FD = 3
BAD, MISUSE, TEMPORARY = 1, 2, 111
FAILURE_S = 3.5  # from start to refusal; by then the random delay of PAM is over, too
PAM_SERVICE = "pop3"
# What PAM says when it cannot know: not that the password is wrong (pam(3))
PAM_TROUBLE = frozenset((1, 2, 3, 4, 5, 9, 14, 15, 20, 21, 22, 24, 25, 26))


class Refused(Exception):
    """The name or the password is wrong, or the account may not be used."""


class Misuse(Exception):
    """Descriptor 3 does not hold what it should."""


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


def read_request() -> tuple[bytes, bytes, bytes]:
    """Name, password and time stamp from descriptor 3, which is closed. Raises Misuse and Temporary."""
    data = b""
    try:
        while len(data) <= REQUEST_MAX and (chunk := os.read(REQUEST_FD, REQUEST_MAX + 1 - len(data))):
            data += chunk
        os.close(REQUEST_FD)
    except OSError:
        raise Misuse from None
    fields = data.split(b"\0")
    if len(data) > REQUEST_MAX or len(fields) < 4:
        raise Misuse
    return fields[0], fields[1], fields[2]


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
    if user.secret and hmac.compare_digest(passwords.apop_digest(stamp, user.secret), password):
        right = True
    if not right:
        raise Refused
    return Account(user.address, user.uid, user.gid, user.home, b"/bin/sh", (user.gid,))


def check_system(name: bytes, password: bytes) -> Account:
    """The account ``name`` of the system. Raises Refused and Temporary."""
    try:
        import pamela
    except (ImportError, OSError, TypeError, AttributeError):
        raise Temporary from None
    try:
        # a tuple: one password, for the one question that is asked
        pamela.authenticate(name, (password,), service=PAM_SERVICE, resetcred=0)
    except pamela.PAMError as error:
        if error.errno in PAM_TROUBLE:
            raise Temporary from None
        raise Refused from None
    try:
        entry = pwd.getpwnam(os.fsdecode(name))
    except KeyError:
        raise Refused from None
    if without_password(name):
        raise Refused
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


def become_user(account: Account) -> None:
    """Take the identity of ``account`` and go to its home. Raises OSError."""
    if os.geteuid() == 0:
        if account.groups is None:
            os.initgroups(os.fsdecode(account.user), account.gid)
        else:
            os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    elif os.geteuid() != account.uid:
        raise PermissionError(1, "not root, and not that user")
    os.chdir(account.home)


def go_on(account: Account, words: Sequence[bytes], environ: Mapping[bytes, bytes]) -> None:
    """Become the user and the program. Returns only if that fails."""
    environment = dict(environ) | {b"USER": account.user, b"HOME": account.home, b"SHELL": account.shell}
    try:
        become_user(account)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execvpe(words[0], list(words), environment)
    except OSError:
        return


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """1 for a wrong name or password, 2 for misuse, 111 for trouble; else the exit status of the program."""
    started = time.monotonic()
    if len(argv) < 2:
        return MISUSE
    try:
        name, password, stamp = read_request()
        account = authenticate(home_of(environ), name, password, stamp)
    except Misuse:
        return MISUSE
    except Temporary:
        return TEMPORARY
    except Refused:
        time.sleep(max(0.0, started + FAILURE_S - time.monotonic()))
        return BAD
    go_on(account, argv[1:], environ)
    return TEMPORARY
