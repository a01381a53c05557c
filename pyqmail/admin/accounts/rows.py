"""Rows of a source of accounts as values: what they say, or why one of them is refused (qmail-accounts(8)).

A row that is refused changes nothing for the others. All rows of an address come together; the first user among them
counts.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pyqmail.formats.forwarding import ADDRESS_MAX
from pyqmail.formats.printable import visible
from pyqmail.mailbox.quota import parse_limit

DOMAIN = re.compile(rb"(?=.{1,255}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# What a dot-atom of RFC 5321 may have, less the slash of paths and the star that marks addresses of ours in a database.
NAME = re.compile(rb"(?=.{1,64}\Z)[a-z0-9!#$%&'+=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'+=?^_`{|}~-]+)*")
TARGET = re.compile(rb"[!-+\x2d-~]+@[a-zA-Z0-9.\[\]:_-]+")  # visible ASCII but the comma
HOME = re.compile(rb"(?:[^\x00-\x20:\x7f/]+/)*[^\x00-\x20:\x7f/]+/?")
HOME_MAX = 512
TARGETS_MAX = 1000  # of one address
USER = b"u"
MANY = 100  # lines about refused rows, at most
Row = Sequence[bytes]


class Refused(Exception):
    """A row cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What becomes of mail for ``name`` at ``domain``; for every other name there where ``name`` is empty."""

    name: bytes
    domain: bytes
    home: bytes | None  # below the directory of homes; None: no mailbox
    quota: bytes  # as maildirsize has it; empty: none of its own
    targets: tuple[bytes, ...]  # where else it goes

    @property
    def address(self) -> bytes:
        """It as one word."""
        return self.name + b"@" + self.domain


class Refusals:
    """Says which rows are refused, the first MANY one by one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.count = 0

    def add(self, row: bytes, why: str) -> None:
        """Say so of a row that begins with the field ``row``."""
        self.count += 1
        if self.count <= MANY:
            self._say(f"{visible(row[:200])}: {why}: this row is left out")

    def end(self) -> None:
        """Say how many more there were."""
        if self.count > MANY:
            self._say(f"{self.count - MANY} more rows are left out")


def parse_domain(field: bytes, taken: frozenset[bytes]) -> bytes:
    """The domain in ``field``; those that are ``taken`` are not had. Raises Refused."""
    if not DOMAIN.fullmatch(field):
        raise Refused("no domain name")
    if field in taken:
        raise Refused("control/locals or virtualdomains has this domain for somebody else")
    return field


def parse_domains(rows: Iterable[Row], taken: frozenset[bytes], refusals: Refusals) -> frozenset[bytes]:
    """All domains that can be had."""
    found = set()
    for row in rows:
        try:
            found.add(parse_domain(row[0], taken))
        except Refused as refused:
            refusals.add(row[0], str(refused))
    return frozenset(found)


def parse_address(field: bytes, domains: frozenset[bytes]) -> tuple[bytes, bytes]:
    """Name and domain. Raises Refused."""
    name, at, domain = field.rpartition(b"@")
    if not at or (name and not NAME.fullmatch(name)):
        raise Refused("no address that can be had here")
    if domain not in domains:
        raise Refused("its domain is none of ours")
    return name, domain


def parse_home(field: bytes, homes: bytes, name: bytes, domain: bytes) -> bytes:
    """The directory of a mailbox below ``homes``; DOMAIN/NAME where ``field`` is empty. Raises Refused."""
    path = (field.removeprefix(homes + b"/") if field else domain + b"/" + name).removesuffix(b"/")
    if len(path) > HOME_MAX or not HOME.fullmatch(path) or not {b".", b".."}.isdisjoint(path.split(b"/")):
        raise Refused("no directory below that of homes")
    return path


def parse_quota(field: bytes) -> bytes:
    """A quota in the words of maildirsize; empty for 0 and for nothing. Raises Refused."""
    limit = parse_limit(field) if field else None
    if field and limit is None:
        raise Refused("no quota, such as 10000000 or 10000000S,5000C")
    return limit.format() if limit else b""


def parse_targets(field: bytes) -> list[bytes]:
    """The addresses in a target, which commas divide. Raises Refused."""
    targets = [target for target in (part.strip(b" ") for part in field.split(b",")) if target]
    if not targets or not all(TARGET.fullmatch(target) and len(target) < ADDRESS_MAX for target in targets):
        raise Refused("no address to forward to")
    return targets


class Reading:
    """Makes entries of rows. ``refusals`` hears of those that cannot be used."""

    def __init__(self, homes: bytes, domains: frozenset[bytes], refusals: Refusals) -> None:
        self._homes = homes
        self._domains = domains
        self._refusals = refusals
        self.users = 0
        self.aliases = 0

    def entries(self, rows: Iterable[Row]) -> Iterator[Entry]:
        """One entry for each address, in the order of the rows."""
        for address, group in groupby(rows, key=lambda row: row[0]):
            try:
                entry = self._entry(address, group)
            except Refused as refused:
                self._refusals.add(address, str(refused))
                continue
            if entry is not None:
                yield entry

    def _entry(self, address: bytes, rows: Iterable[Row]) -> Entry | None:
        name, domain = parse_address(address, self._domains)
        home, quota, aliases, targets = None, b"", 0, dict[bytes, None]()
        for _, kind, value, limit in rows:
            try:
                if kind != USER:
                    if len(targets) <= TARGETS_MAX:
                        targets |= dict.fromkeys(parse_targets(value))
                    aliases += 1
                elif not name:
                    raise Refused("a mailbox needs a name")
                elif home is None:
                    home, quota = parse_home(value, self._homes, name, domain), parse_quota(limit)
                else:
                    raise Refused("this user is there twice")
            except Refused as refused:
                self._refusals.add(address, str(refused))
        if len(targets) > TARGETS_MAX:
            raise Refused(f"more than {TARGETS_MAX} targets")
        if home is None and not targets:
            return None  # its rows were refused
        if home is None and any(target.lower() == address for target in targets):
            raise Refused("it forwards to itself, and has no mailbox")
        self.users += home is not None
        self.aliases += aliases
        return Entry(name, domain, home, quota, tuple(targets))
