"""The lines of users/assign for the accounts of a password file (qmail-pw2u(8))."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pyqmail.control import parse_integer, parse_lines
from pyqmail.options import parse_options
from pyqmail.policy.accounts import ROLES
from pyqmail.system.files import read_file

HOMES_OPTIONAL, HOMES_NEEDED, HOMES_IGNORED = b"o", b"h", b"H"


class AssignError(Exception):
    """Why the file cannot be made, for people."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


@dataclass(slots=True)
class Options:
    """The command line."""

    homes: bytes = HOMES_OPTIONAL
    upper: bool = False
    separator: bytes = b"-"  # empty: no wildcards
    dash: bytes = b"-"


@dataclass(frozen=True, slots=True)
class Lists:
    """The files below users/; None where there is none."""

    include: frozenset[bytes] | None = None
    exclude: frozenset[bytes] | None = None
    mailnames: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    subusers: tuple[tuple[bytes, bytes, bytes], ...] = ()
    append: bytes = b""


def read_options(args: Sequence[bytes], break_char: bytes) -> Options:
    """The options in ``args``, a later one overriding an earlier one. Raises UsageError."""
    options = Options(separator=break_char)
    for letter, argument in parse_options(args, b"/ohHuUCc:")[0]:
        if letter in (HOMES_OPTIONAL, HOMES_NEEDED, HOMES_IGNORED):
            options.homes = letter
        elif letter in (b"u", b"U"):
            options.upper = letter == b"u"
        elif letter == b"/":
            options.dash = b"-/"
        else:
            options.separator = argument[:1]  # C has no argument
    return options


def _mailnames(data: bytes) -> dict[bytes, tuple[bytes, ...]]:
    names = {}
    for line in parse_lines(data):
        user, *listed = line.split(b":")
        if not listed:
            continue  # a name alone says nothing
        names[user.lower()] = tuple(name for name in listed if name)
    return names


def _subusers(data: bytes) -> tuple[tuple[bytes, bytes, bytes], ...]:
    lines = (line.split(b":", 3) for line in data.split(b"\n"))
    return tuple((parts[0], parts[1], parts[2]) for parts in lines if len(parts) == 4)


def _users(data: bytes | None) -> frozenset[bytes] | None:
    return None if data is None else frozenset(name.lower() for name in parse_lines(data))


def _read_users_file(name: str) -> bytes | None:
    try:
        return read_file(f"users/{name}")
    except FileNotFoundError:
        return None
    except OSError:
        raise AssignError(b"unable to read controls") from None


def read_lists() -> Lists:
    """The files below users/ of the current directory. Raises AssignError when one is there and cannot be read."""
    return Lists(
        include=_users(_read_users_file("include")),
        exclude=_users(_read_users_file("exclude")),
        mailnames=_mailnames(_read_users_file("mailnames") or b""),
        subusers=_subusers(_read_users_file("subusers") or b""),
        append=_read_users_file("append") or b"",
    )


def _home_counts(homedir: bytes, uid: int, homes: bytes) -> bool:
    """Whether the home lets its account take mail. Raises AssignError."""
    if homes == HOMES_IGNORED:
        return True
    try:
        return os.stat(homedir)[stat.ST_UID] == uid
    except OSError as error:
        if isinstance(error, FileNotFoundError) and homes == HOMES_OPTIONAL:
            return False
        raise AssignError(b"unable to stat " + homedir) from None


def _accepts(user: bytes, uid: int, homedir: bytes, options: Options, lists: Lists) -> bool:
    """Whether the account takes mail: the first of the tests that fails skips it."""
    if uid == 0 or (not options.upper and user != user.lower()):
        return False
    if lists.include is not None and user.lower() not in lists.include:
        return False
    if lists.exclude is not None and user.lower() in lists.exclude:
        return False
    return _home_counts(homedir, uid, options.homes)


def format_assign(passwd: bytes, alias: bytes, options: Options, lists: Lists) -> Iterator[bytes]:
    """The lines of users/assign for the accounts in ``passwd``. Raises AssignError."""
    accounts: dict[bytes, bytes] = {}
    dash, separator = options.dash, options.separator
    for line in passwd.split(b"\n"):
        fields = line.split(b":")
        if len(fields) < 7 or b"\0" in line:
            continue
        user, homedir = fields[0], fields[5]
        if not _accepts(user, parse_integer(fields[2]) or 0, homedir, options, lists):
            continue
        account = b":%b:%b:%b:%b:" % (user, fields[2], fields[3], homedir)
        accounts[user.lower()] = account
        if user == alias:
            yield b"+%b%b::\n" % (account, dash)
        for name in lists.mailnames.get(user.lower(), (user,)):
            yield b"=%b%b::\n" % (name, account)
            if separator:
                yield b"+%b%b%b%b::\n" % (name, separator, account, dash)
    if alias.lower() not in accounts:
        raise AssignError(b"unable to find " + alias + b" user")
    for sub, user, prefix in lists.subusers:
        owner = accounts.get(user.lower())
        if owner is None:
            raise AssignError(b"unable to find " + user + b" user for subuser")
        yield b"=%b%b%b:%b:\n" % (sub, owner, dash, prefix)
        if separator:
            yield b"+%b%b%b%b:%b-:\n" % (sub, separator, owner, dash, prefix)
    yield lists.append
    yield b".\n"


def alias_name() -> bytes:
    """The account of the alias role: its name, as control/conf-users has it. Raises AssignError."""
    data = _read_conf_users()
    return data[0] if data else ROLES[0]


def _read_conf_users() -> tuple[bytes, ...]:
    try:
        return parse_lines(read_file("control/conf-users"))
    except FileNotFoundError:
        return ()
    except OSError:
        raise AssignError(b"unable to read controls") from None
