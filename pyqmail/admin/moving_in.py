"""Another qmail's tree, read before one moves in: qmail-showctl --check --from DIR (qmail-showctl(8)).

DIR is the home itself, /var/qmail or a copy of it, or a copy of the other host's root with var/qmail below it. Nothing
is changed, and no program of theirs is run.
"""

import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from pyqmail.admin.check_one_file import PATTERNS, show_value
from pyqmail.admin.control_files import BY_NAME, SMTPD, ControlFile, Form
from pyqmail.admin.other_trees import FILES, Fate, found_in
from pyqmail.control import ControlUnreadable, parse_lines
from pyqmail.policy.relay_limits import parse_line
from pyqmail.remote.controls import SECRETS
from pyqmail.remote.security import parse_destination

FILE_MAX = 1048576  # bytes that are looked at
READERS = {
    "qmail-smtpd": "qmaild",
    "qmail-remote": "qmailr",
    "qmail-send": "qmails",
    "qmail-rspawn": "qmailr",
    "qmail-verifyd": "qmailv",
    "qmail-stated": "qmailv",
}
NO_USE = "; a run file that gives tcpserver another -u has to be able to read it by that user"


class NoTree(Exception):
    """There is no qmail at this place; the text says where was looked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: ``what`` in the file ``where``, nothing for the file itself, and what becomes of it."""

    where: str
    what: str
    fate: Fate
    why: str = ""

    def line(self) -> str:
        """``where: what: fate: why``; what was taken as something else says as what."""
        names = ": ".join(part for part in (self.where, self.what) if part)
        joint = " " if self.fate is Fate.TAKEN_AS else ": "
        because = "because " if self.fate in (Fate.IGNORED, Fate.NOT_SUPPORTED) else ""
        return f"{names}: {self.fate.value}" + (f"{joint}{because}{self.why}" if self.why else "")


@dataclass(frozen=True, slots=True)
class OtherTree:
    """Where the other qmail is: ``home`` has its control directory, ``root`` what its run files call ``/``."""

    home: str
    root: str

    def at(self, path: str) -> str:
        """Where a file is that the other host calls ``path``."""
        return self.root + path if path.startswith("/") else f"{self.home}/{path}"

    def shown(self, path: str) -> str:
        """``path`` as the report names it."""
        return os.path.relpath(path, self.home) if path.startswith(self.home + "/") else path.removeprefix(self.root)


def find_tree(directory: str) -> OtherTree:
    """The tree at ``directory``. Raises NoTree."""
    directory = os.path.abspath(directory).rstrip("/")
    for below in ("", "/var/qmail"):
        home = directory + below
        if os.path.isdir(f"{home}/control"):
            return OtherTree(home, home.removesuffix("/var/qmail") if home.endswith("/var/qmail") else home)
    raise NoTree(f"{directory}: no qmail: neither control nor var/qmail/control is there")


def read_text(path: str) -> bytes:
    """What a regular file has, its first megabyte. Raises OSError; never waits for a FIFO."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "is not a file", path)
        with open(fd, "rb", closefd=False) as file:
            return file.read(FILE_MAX)
    finally:
        os.close(fd)


def control_findings(tree: OtherTree) -> Iterator[Finding]:
    """What becomes of each control file. Raises NoTree."""
    directory = f"{tree.home}/control"
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise NoTree(f"{directory}: {error.strerror}") from None
    for name in names:
        where = f"control/{name}"
        if name not in BY_NAME:
            fate, why = found_in(FILES, name) or (Fate.NOT_SUPPORTED, "no program here reads it")
            yield Finding(where, "", fate, why)
            continue
        yield Finding(where, "", Fate.TAKEN)
        yield from _unreadable(f"{directory}/{name}", where, BY_NAME[name])
        yield from _other_meanings(f"{directory}/{name}", where, name)


def _unreadable(path: str, where: str, entry: ControlFile) -> Iterator[Finding]:
    """Files that the users of our programs cannot read, and keys that others can."""
    paths = [path]
    if entry.form is Form.DIRECTORY:
        try:
            paths += [f"{path}/{name}/servercert.pem" for name in sorted(os.listdir(path))]
        except OSError as error:
            yield Finding(where, "", Fate.NOT_SUPPORTED, f"{error.strerror}")
    for each in paths:
        shown = where + each.removeprefix(path)
        try:
            status = os.stat(each)
        except OSError as error:
            yield Finding(shown, "", Fate.NOT_SUPPORTED, f"it cannot be looked at: {error.strerror}")
            continue
        for user in sorted({READERS[name] for name in entry.readers if name in READERS}):
            if not may_read(status, user):
                told = NO_USE if entry.readers == SMTPD else ""
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                why = f"{user} cannot read it: mode {mode}, owner {status.st_uid}:{status.st_gid}{told}"
                yield Finding(shown, "", Fate.NOT_SUPPORTED, why)
        open_secret = entry.name in SECRETS and stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IRWXO
        if open_secret and b"|" in read_text(each):
            yield Finding(shown, "", Fate.NOT_SUPPORTED, "it has passwords that others may read: chmod 0640")
        if entry.form is Form.SECRET and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding(shown, "", Fate.NOT_SUPPORTED, "others than its owner may read it: chown alias, chmod 0400")
        if os.path.basename(each) == "servercert.pem" and status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            yield Finding(shown, "", Fate.NOT_SUPPORTED, "it has a key, and others may read or write it: chmod 0640")


def may_read(status: os.stat_result, user: str) -> bool:
    """Whether ``user`` with its group alone, as tcpserver -g leaves it, may read; True if there is no such user."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return True
    needed = 0o5 if stat.S_ISDIR(status.st_mode) else 0o4
    shift = 6 if status.st_uid == account.pw_uid else 3 if status.st_gid == account.pw_gid else 0
    return status.st_mode >> shift & needed == needed


def _other_meanings(path: str, where: str, name: str) -> Iterator[Finding]:
    """Lines that the other qmail understands in another way."""
    tell = {
        "smtproutes": _route,
        "authsenders": _route,
        "tlsdestinations": _destination,
        "mailfromrules": _sender_rule,
        "relaylimits": _relay_limit,
        **dict.fromkeys(PATTERNS, _bad_line),
    }.get(name)
    if tell is None:
        return
    try:
        lines = parse_lines(read_text(path))
    except OSError as error:
        yield Finding(where, "", Fate.NOT_SUPPORTED, f"it cannot be read: {error.strerror}")
        return
    for line in lines:
        why = tell(line)
        if why:
            # What stands behind the first bar of a route is a password's place: it is not shown.
            yield Finding(where, show_value(line.partition(b"|")[0]), Fate.NOT_SUPPORTED, why)


def _route(line: bytes) -> str:
    return "a port is a number" if line.partition(b"|")[0].endswith(b":smtps") else ""


def _destination(line: bytes) -> str:
    try:
        parse_destination(line.partition(b":")[2])
    except ControlUnreadable:
        return "a line is domain:WORD|AUTHORITIES|CIPHERS|CERTIFICATE, and WORD none, may, encrypt or verify"
    return "" if line[:1] not in b"=!%-~" else "a domain has no sign in front of it here"


def _sender_rule(line: bytes) -> str:
    if b"&" in line or b"," in line or b":" not in line:
        return "a line is user:address, one address each, @domain for all of a domain, * for every user or address"
    return ""


def _relay_limit(line: bytes) -> str:
    found = parse_line(line)
    return found if isinstance(found, str) else ""


def _bad_line(line: bytes) -> str:
    return "a line is an address, @domain or a regular expression" if line[:1] in b"?+-=~*" else ""
