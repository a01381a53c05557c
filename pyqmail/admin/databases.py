"""Databases that are made anew from their source, the old one staying until the new one is whole (qmail-newu(8))."""

import os
from collections.abc import Callable, Iterator

from pyqmail.formats.assign import SPECIAL, AssignFormat, parse_assign, parse_record
from pyqmail.formats.cdb import replace_cdb, write_cdb
from pyqmail.intake.resend import complain
from pyqmail.policy.users import ACCOUNTS
from pyqmail.system.files import open_read, read_all

ASSIGN = "users/accounts/assign"  # lines that qmail-accounts(8) leaves, all of them whole


class NotMade(Exception):
    """Why nothing was changed, for people."""


def _read_assign(path: str) -> bytes:
    try:
        fd = open_read(path)
    except FileNotFoundError:
        if os.path.exists(ASSIGN):
            return b".\n"  # accounts alone
        raise NotMade("unable to open users/assign") from None
    except OSError:
        raise NotMade("unable to open users/assign") from None
    try:
        return read_all(fd)
    except OSError:
        raise NotMade("unable to read users/assign") from None
    finally:
        os.close(fd)


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Those of users/assign, then those of accounts, then the special one for both. Raises AssignFormat and OSError."""
    special = b""
    for key, record in parse_assign(data):
        if key == SPECIAL:
            special = record
        else:
            yield key, record
    try:
        accounts = open(ASSIGN, "rb")
    except FileNotFoundError:
        yield SPECIAL, special
        return
    with accounts:
        yield ACCOUNTS, b""
        for line in accounts:
            yield parse_record(line.rstrip(b"\n"))
    yield SPECIAL, special if b"-" in special else special + b"-"  # each wildcard of a domain ends so


def make_users(home: str) -> None:
    """users/cdb from users/assign, and from accounts if there are any, in the home. Raises NotMade."""
    try:
        os.chdir(home)
    except OSError:
        raise NotMade("unable to chdir") from None
    data = _read_assign("users/assign")
    try:
        os.close(os.open("users/cdb.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
    except OSError:
        raise NotMade("unable to open users/cdb.tmp") from None
    try:
        write_cdb("users/cdb.tmp", _records(data))
    except AssignFormat:
        raise NotMade("bad format in users/assign") from None
    except OSError:
        raise NotMade("unable to write users/cdb.tmp") from None
    try:
        replace_cdb("users/cdb.tmp", "users/cdb")
    except OSError:
        raise NotMade("unable to move users/cdb.tmp to users/cdb") from None


def make(program: str, steps: Callable[[], None]) -> int:
    """Take the ``steps`` to a database that everybody may read: 0, or 111 with a line on descriptor 2."""
    os.umask(0o033)
    try:
        steps()
    except NotMade as trouble:
        text = str(trouble)
    except MemoryError:
        text = "out of memory"
    else:
        return 0
    complain(f"{program}: fatal: {text}".encode())
    return 111
