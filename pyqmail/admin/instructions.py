"""What the .qmail files of a tree would trip over: of alias, of users/assign, of accounts (dot-qmail(5)).

qmail-showctl --check and qmail-setup --check print these lines. They are of what defers, bounces or loops, by the list
that qmail-explain has.
"""

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from pyqmail.control import ControlUnreadable, read_knobs
from pyqmail.formats.assign import AssignFormat, parse_assign
from pyqmail.formats.printable import visible
from pyqmail.local.instructions import Instructions
from pyqmail.local.outlook import Outlook, identity, judge_lines
from pyqmail.local.program_forwards import Forward
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts
from pyqmail.policy.users import parse_assignment
from pyqmail.send.controls import read_controls

FILE_MAX = 1 << 20  # bytes that are looked at
LEFTOVERS = (b"~", b".new", b".bak", b".swp", b".orig")


@dataclass(frozen=True, slots=True)
class Place:
    """A directory with .qmail files, and whose they are."""

    path: bytes
    user: bytes
    uid: int
    gid: int


def instruction_troubles(home: str) -> Iterator[str]:
    """A line for each line of a .qmail file that would not do, and for each file that nobody obeys."""
    try:
        accounts = read_accounts(home)
        routing = read_controls(home).routing
        outlook = Outlook(home, accounts, routing)
        forbidden = read_knobs(home).patrn
    except (AccountMissing, ControlUnreadable):
        return  # said already
    domain = next(iter(sorted(routing.locals)), b"localhost")
    try:
        for place in places(home, accounts):
            if os.geteuid() in (0, place.uid):  # of others' files nobody else can say what may be written
                lines = _of_place(place, accounts, outlook, domain, home, forbidden)
                yield from (visible(os.fsencode(line)) for line in lines)
    finally:
        os.chdir("/")


def places(home: str, accounts: Accounts) -> list[Place]:
    """Where .qmail files may be: alias, then what users/assign and the password file name."""
    found = [Place(os.fsencode(f"{home}/alias"), accounts.alias_name, accounts.uid_alias, accounts.gid_qmail)]
    if accounts.single_user:
        found.append(Place(os.fsencode(f"{home}/home"), accounts.alias_name, accounts.uid_alias, accounts.gid_qmail))
    else:
        found += [
            Place(os.fsencode(entry.pw_dir), os.fsencode(entry.pw_name), entry.pw_uid, entry.pw_gid)
            for entry in pwd.getpwall()
        ]
    found += _assigned(home)
    unique = {os.path.realpath(place.path): place for place in reversed(found) if place.uid or accounts.single_user}
    return [unique[path] for path in sorted(unique)]


def _assigned(home: str) -> Iterator[Place]:
    try:
        with open(f"{home}/users/assign", "rb") as source:
            records = list(parse_assign(source.read()))
    except (OSError, AssignFormat):
        return  # said already
    for key, data in records:
        assignment = parse_assignment(data + b"\0") if key else None
        if assignment is not None:
            yield Place(assignment.homedir, assignment.user, assignment.uid, assignment.gid)


def _of_place(
    place: Place, accounts: Accounts, outlook: Outlook, domain: bytes, home: str, forbidden: int
) -> Iterator[str]:
    """What is wrong with the .qmail files of one directory."""
    found: list[str] = []
    forwards: list[tuple[str, Forward]] = []
    environ = {
        b"QMAIL_HOME": os.fsencode(home),
        b"HOME": place.path,
        b"USER": place.user,
        b"HOST": domain,
    }
    try:
        with identity(accounts, place.uid, place.gid):
            os.chdir(place.path)
            names = sorted(os.listdir(b"."))
            for name in names:
                if name.startswith(b".qmail") and not name.endswith(LEFTOVERS):
                    shown = os.fsdecode(place.path + b"/" + name)
                    found += _name(shown, name)
                    with suppress(OSError):  # of a file that may not be read the modes are looked at elsewhere
                        forwards += _of_file(shown, name, environ, home, forbidden, found)
    except OSError:
        return
    yield from found
    os.chdir("/")
    if b".forward" in names and b".qmail" not in names:  # the default delivery may obey it
        for wrong in outlook.follow(place.user + b"@" + domain):
            yield f"{os.fsdecode(place.path)}/.forward: {wrong.text}"
    for shown, forward in forwards:
        for wrong in outlook.follow(forward.address):
            yield f"{shown}: {os.fsdecode(forward.address)}: {wrong.text}"


def _name(shown: str, name: bytes) -> Iterator[str]:
    """A file whose name no address leads to."""
    extension = name.removeprefix(b".qmail")
    if extension != extension.lower():
        yield f"{shown}: is never obeyed: the name is written in small letters"
    elif b"." in extension:
        yield f"{shown}: is never obeyed: a dot of the address is a colon in the name"
    elif b"*" in extension:
        yield f"{shown}: a * stands for itself: -default is everybody who has no file"


def _of_file(
    shown: str, name: bytes, environ: Mapping[bytes, bytes], home: str, forbidden: int, found: list[str]
) -> Iterator[tuple[str, Forward]]:
    """The forwards of one file in the current directory; what is wrong with its lines goes to ``found``."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        data = os.read(fd, FILE_MAX) if stat.S_ISREG(mode) and not mode & forbidden else b""
    finally:
        os.close(fd)
    if not data:
        return
    instructions = Instructions(data, default=None, forward_only=bool(mode & stat.S_IXUSR))
    for _kind, argument, wrong, forwards in judge_lines(instructions, environ, home):
        if wrong is not None:
            found.append(f"{shown}: {os.fsdecode(argument)}: {wrong.text}" if argument else f"{shown}: {wrong.text}")
        for forward in forwards:
            yield shown, forward
