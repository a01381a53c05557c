"""Mail users without an account of the system: users/virtual, and users/virtual.cdb made from it (qmail-vuser(8)).

    ADDRESS:HASH:SECRET:UID:GID:HOME        one user a line, of root, 0600

HASH is a password hash (login/passwords.py), SECRET the password itself in hexadecimal, for APOP, mostly empty. HOME
is where checkpassword goes; the Maildir is below it. The cdb has the address in lower case as its key and the other
fields, separated by NUL, as its data.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pyqmail.formats.cdb import Cdb, CdbCorrupt, replace_cdb, write_cdb
from pyqmail.system import files

COMPILED = "/users/virtual.cdb"  # below the home
FIELDS = 6


class VirtualUnreadable(Exception):
    """The file of virtual users is there and cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class VirtualUser:
    """Who somebody is once the password is right."""

    address: bytes
    password_hash: bytes
    secret: bytes  # empty: no APOP
    uid: int
    gid: int
    home: bytes


def _parse_fields(address: bytes, fields: list[bytes]) -> VirtualUser:
    try:
        password_hash, secret, uid, gid, home = fields
        return VirtualUser(address, password_hash, bytes.fromhex(secret.decode("ascii")), int(uid), int(gid), home)
    except (ValueError, UnicodeDecodeError):
        raise VirtualUnreadable("bad format") from None


def _fields(user: VirtualUser) -> list[bytes]:
    return [user.password_hash, user.secret.hex().encode(), b"%d" % user.uid, b"%d" % user.gid, user.home]


def parse_users(data: bytes) -> dict[bytes, VirtualUser]:
    """The users in file ``data`` by address. Raises VirtualUnreadable."""
    users = {}
    for line in data.split(b"\n"):
        if line and not line.startswith(b"#"):
            address, *fields = line.split(b":", FIELDS - 1)
            users[address] = _parse_fields(address, fields)
    return users


def format_users(users: Mapping[bytes, VirtualUser]) -> bytes:
    """The bytes of the file, sorted by domain and name."""
    order = sorted(users, key=lambda address: address.rpartition(b"@")[::-1])
    return b"".join(b":".join([address, *_fields(users[address])]) + b"\n" for address in order)


def read_users(home: str) -> dict[bytes, VirtualUser]:
    """All virtual users. Raises VirtualUnreadable."""
    try:
        return parse_users(files.read_file(f"{home}/users/virtual"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise VirtualUnreadable((error.strerror or "error").lower()) from error


def write_users(home: str, users: Mapping[bytes, VirtualUser]) -> None:
    """Replace both files, durably, first the cdb that checkpassword reads. Raises OSError."""
    path = f"{home}/users/virtual"
    umask = os.umask(0o077)
    try:
        write_cdb(path + ".cdb.tmp", ((address, b"\0".join(_fields(user))) for address, user in users.items()))
    finally:
        os.umask(umask)
    fd = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        files.write_all(fd, format_users(users))
        files.sync(fd)
    finally:
        os.close(fd)
    replace_cdb(path + ".cdb.tmp", path + ".cdb")
    files.rename(path + ".tmp", path)
    files.sync_directory(f"{home}/users")


def find_user(home: str, address: bytes) -> VirtualUser | None:
    """The user with ``address``, in any case; None when there is none. Raises VirtualUnreadable."""
    try:
        fd = files.open_read(home + COMPILED)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VirtualUnreadable((error.strerror or "error").lower()) from error
    try:
        data = Cdb(fd).get(address.lower())
    except (CdbCorrupt, OSError) as error:
        raise VirtualUnreadable("unusable cdb") from error
    finally:
        os.close(fd)
    return None if data is None else _parse_fields(address.lower(), data.split(b"\0"))
