"""The account of a local part by the password file (qmail-getpw(8))."""

import ctypes
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from pyqmail.exits import SpawnExit
from pyqmail.policy.users import catch_all
from pyqmail.system.errors import temporary
from pyqmail.system.typed import Any

USER_LENGTH_MAX = 32  # candidates of this length or more are no account names

# ETXTBSY is the sign agreed in qmail-getpw(8); the others are getpwnam(3)'s own words for "not now".
LOOKUP_TEMPORARY = frozenset((errno.ETXTBSY, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


class LookupTrouble(Exception):
    """No answer now; the exit code says why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Account:
    """One line of the password file, as far as mail needs it."""

    name: bytes
    uid: int
    gid: int
    homedir: bytes


class _Passwd(ctypes.Structure):
    _fields_ = (
        ("pw_name", ctypes.c_char_p),
        ("pw_passwd", ctypes.c_char_p),
        ("pw_uid", ctypes.c_uint),
        ("pw_gid", ctypes.c_uint),
        ("pw_gecos", ctypes.c_char_p),
        ("pw_dir", ctypes.c_char_p),
        ("pw_shell", ctypes.c_char_p),
    )


@cache
def _getpwnam() -> Callable[[bytes], Any]:
    """getpwnam(3) of the C library, bound once."""
    function = ctypes.CDLL(None, use_errno=True).getpwnam
    function.restype = ctypes.POINTER(_Passwd)
    function.argtypes = (ctypes.c_char_p,)
    return function


def find_account(name: bytes) -> Account | None:
    """The account called ``name``. Raises LookupTrouble when the look-up failed for now.

    Not the pwd module: it hides errno, so that a directory server out of reach would look like "no such user".
    """
    getpwnam = _getpwnam()
    ctypes.set_errno(0)
    found = getpwnam(name)
    if not found:
        if ctypes.get_errno() in LOOKUP_TEMPORARY:
            raise LookupTrouble(SpawnExit.SYSTEM)
        return None
    entry = found.contents
    return Account(entry.pw_name or b"", entry.pw_uid, entry.pw_gid, entry.pw_dir or b"")


def is_mail_user(account: Account) -> bool:
    """Whether the account takes mail: not root, and its home is there and its own. Raises LookupTrouble."""
    if account.uid == 0:
        return False
    try:
        return os.stat(account.homedir).st_uid == account.uid
    except OSError as error:
        if temporary(error):
            raise LookupTrouble(SpawnExit.NO_HOME) from error
        return False


def find_user(local: bytes, break_char: bytes) -> bytes | None:
    """The record of the longest account name that ``local`` starts with; None when it is nobody's."""
    points = [len(local)]
    points += [place for place in range(len(local) - 1, -1, -1) if local[place : place + 1] == break_char]
    for point in points:
        if point >= USER_LENGTH_MAX:
            continue
        account = find_account(local[:point].lower())
        if account is None or not is_mail_user(account):
            continue
        dash, ext = (b"", b"") if point == len(local) else (b"-", local[point + 1 :])
        return b"%s\0%d\0%d\0%s\0%s\0%s\0" % (account.name, account.uid, account.gid, account.homedir, dash, ext)
    return None


def find_alias(name: bytes, local: bytes) -> bytes:
    """The record of the alias account, which takes what is nobody's. Raises LookupTrouble."""
    if name.isdigit():
        import pwd

        try:
            name = os.fsencode(pwd.getpwuid(int(name)).pw_name)
        except KeyError:
            raise LookupTrouble(SpawnExit.NO_ALIAS) from None
    account = find_account(name)
    if account is None:
        raise LookupTrouble(SpawnExit.NO_ALIAS)
    return catch_all(account.name, account.uid, account.gid, account.homedir, local)
