"""Which account a local part belongs to: users/cdb, users/assign, the catch-all (qmail-users(5), qmail-lspawn(8))."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from pyqmail.control import parse_integer
from pyqmail.formats.assign import SPECIAL, AssignFormat, parse_assign
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.policy.accounts import Accounts
from pyqmail.system.files import LIST_MAX, open_read, read_file
from pyqmail.system.stamp import Glance, Stamp, stamp_of

CHANGES = "/users/accounts/changes.cdb"  # exact assignments that are newer than users/cdb (qmail-accounts(8))
ACCOUNTS = b"accounts"  # the key, which no address has, in a users/cdb that may have such


class UsersTrouble(Exception):
    """The users database is there but cannot be used: nobody's mail may go to the catch-all meanwhile."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who takes the mail of one local part, and which .qmail file: homedir/.qmail dash ext."""

    user: bytes
    uid: int
    gid: int
    homedir: bytes
    dash: bytes
    ext: bytes


def _number(digits: bytes) -> int:
    """Leading decimal digits; 0 when there are none, which is refused as root."""
    return parse_integer(digits) or 0


def parse_assignment(record: bytes) -> Assignment | None:
    """The six fields of ``record``, each ended by NUL; None when there are fewer."""
    fields = record.split(b"\0")
    if len(fields) < 7:
        return None
    return Assignment(fields[0], _number(fields[1]), _number(fields[2]), fields[3], fields[4], fields[5])


def find_record(get: Callable[[bytes], bytes | None], local: bytes) -> bytes | None:
    """The record for ``local`` in a database of users/assign records: exact first, then the longest wildcard.

    The unmatched rest keeps its case. Raises UsersTrouble when the set of wildcard ends is missing.
    """
    lower = local.lower()
    ends = get(SPECIAL)
    if ends is None:
        raise UsersTrouble
    exact = get(b"!" + lower + b"\0")
    if exact is not None:
        return exact + b"\0"
    for length in range(len(lower), -1, -1):
        if length and lower[length - 1 : length] not in ends:
            continue
        found = get(b"!" + lower[:length])
        if found is not None:
            return found + local[length:] + b"\0"
    return None


def catch_all(user: bytes, uid: int, gid: int, homedir: bytes, local: bytes) -> bytes:
    """The record of an account that takes what nobody else does (qmail-getpw(8))."""
    return b"%s\0%d\0%d\0%s\0-\0%s\0" % (user, uid, gid, homedir, local)


def tree_catch_all(home: str, accounts: Accounts, local: bytes) -> bytes:
    """The record of what is nobody's in a single-user tree: it is delivered below the tree's own home/."""
    user = b"alias" if accounts.alias_name.isdigit() else accounts.alias_name
    return catch_all(user, accounts.uid_alias, accounts.gid_qmail, os.fsencode(f"{home}/home"), local)


class _Database:
    """One cdb file, kept open while it stays the same."""

    def __init__(self, path: str, glance: Glance) -> None:
        self._path = path
        self._glance = glance
        self._cdb: Cdb | None = None  # open on _fd; good while the file still has _stamp
        self._fd = -1
        self._stamp: Stamp | None = None

    def current(self) -> Cdb | None:
        """The file as it is now; None when there is none. Raises CdbCorrupt and OSError."""
        try:
            stamp = self._glance.stat(self._path)
            if self._cdb is None or stamp != self._stamp:
                self._open()
        except FileNotFoundError:
            self._close()
        return self._cdb

    def _open(self) -> None:
        self._close()
        self._fd = open_read(self._path)
        self._stamp = stamp_of(os.fstat(self._fd))
        self._cdb = Cdb(self._fd)

    def _close(self) -> None:
        self._cdb = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class UsersDatabase:
    """users/cdb of one home, looked at anew for every look-up, or ``glance``, so that qmail-newu needs no signal.

    Where it has ACCOUNTS, what has changed in a database of accounts since it was made stands in a second file.
    """

    def __init__(self, home: str, accounts: Accounts, glance: Glance | None = None) -> None:
        self.home = home
        self.accounts = accounts
        glance = glance or Glance()
        self._users = _Database(f"{home}/users/cdb", glance)
        self._changes = _Database(home + CHANGES, glance)
        self._looked_at: Cdb | None = None
        self._may_change = False

    def find(self, local: bytes) -> bytes | None:
        """The record for ``local``; None when qmail-getpw has to be asked. Raises UsersTrouble.

        A single-user tree reads users/assign where there is no cdb and never consults passwd, which would find the
        real home of that user: what is not assigned belongs below the tree's own home/.
        """
        try:
            record = self._find_in_cdb(local)
            if record is None and self.accounts.single_user:
                record = self._find_in_tree(local)
        except (CdbCorrupt, AssignFormat, OSError) as error:
            raise UsersTrouble from error
        return record

    def _find_in_cdb(self, local: bytes) -> bytes | None:
        users = self._users.current()
        if users is None:
            return None
        if users is not self._looked_at:
            self._looked_at, self._may_change = users, users.get(ACCOUNTS) is not None
        changes = self._changes.current() if self._may_change else None
        changed = None if changes is None else changes.get(b"!" + local.lower() + b"\0")
        return find_record(users.get, local) if changed is None else changed + b"\0"

    def _find_in_tree(self, local: bytes) -> bytes:
        if not os.path.exists(f"{self.home}/users/cdb"):
            records: dict[bytes, bytes] = {}
            for key, data in self._assign():
                records.setdefault(key, data)  # of equal addresses the first line wins
            found = find_record(records.get, local)
            if found is not None:
                return found
        return tree_catch_all(self.home, self.accounts, local)

    def _assign(self) -> list[tuple[bytes, bytes]]:
        try:
            return list(parse_assign(read_file(f"{self.home}/users/assign", LIST_MAX)))
        except FileNotFoundError:
            return [(SPECIAL, b"")]
