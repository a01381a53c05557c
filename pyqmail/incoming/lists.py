"""The lists of an admin: badhelo, badmailfrom, badrcptto, their norelay twins, and validrcptto (qmail-control(5)).

Each is control/NAME, with patterns (policy/patterns), and control/NAME.cdb, which qmail-newlist makes of plain lines:
a list of a million lines costs one look-up. A norelay list is not asked about clients that may relay.
"""

import os

from pyqmail.control import Control, ControlUnreadable
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.formats.logline import safe
from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.parsed import tell_complaints
from pyqmail.incoming.refusals import BAD_HELO, BAD_RECIPIENT, BAD_SENDER, NOT_VALID
from pyqmail.policy.patterns import SPECIAL, PatternList, address_keys, name_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DENY = b"-"  # before a line of validrcptto: not this one


class AddressList:
    """One list of a session. ``close`` it. Raises ControlUnreadable, from ``match`` too."""

    def __init__(self, rules: Rules, name: str, databases: "Iterable[str]" = ()) -> None:
        self.name = name
        self._rules = rules
        self._lines = rules.site.made(name, PatternList) if rules.has(name) else None
        if self._lines is not None:
            tell_complaints(rules, name, self._lines)
        self._databases: list[tuple[str, int]] = []
        if rules.site.databases:
            wanted = (name + ".cdb", *databases)
            self._databases = [(each, open_database(rules.control, each)) for each in wanted if rules.has(each)]

    def __bool__(self) -> bool:
        return bool(self._lines or self._databases)

    def match(self, text: bytes, keys: "tuple[bytes, ...]") -> bytes | None:
        """The line that lists ``text``, which plain lines may also name by one of ``keys``."""
        if self._lines is not None:
            found = self._lines.match(text, keys)
            tell_complaints(self._rules, self.name, self._lines)
            if found is not None:
                return found
        if not self._databases:
            return None
        return next((key for key in (text.lower(), *keys) if self._in_database(key)), None)

    def has(self, key: bytes) -> bool:
        """Whether a plain line is ``key``."""
        return (self._lines is not None and key in self._lines.plain) or self._in_database(key)

    def _in_database(self, key: bytes) -> bool:
        for name, fd in self._databases:
            try:
                if fd >= 0 and Cdb(fd).get(key) is not None:
                    return True
            except (CdbCorrupt, OSError) as error:
                raise ControlUnreadable(f"control/{name}: damaged") from error
        return False

    def close(self) -> None:
        """Give back the open databases."""
        while self._databases:
            _, fd = self._databases.pop()
            if fd >= 0:
                os.close(fd)


def open_database(control: Control, name: str) -> int:
    """An open control/``name``, or -1 when there is none. Raises ControlUnreadable."""
    try:
        return os.open(f"{control.directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise ControlUnreadable(f"control/{name}: {error.strerror}") from error


class _ListCheck(Check):
    """A list for everybody, and one for those who may not relay."""

    lists: tuple[str, str] = ("", "")

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._everybody = AddressList(rules, self.lists[0])
        self._strangers: AddressList | None = None  # opened for the first who may not relay
        self.active = bool(self._everybody) or any(rules.has(self.lists[1] + end) for end in ("", ".cdb"))

    def find(self, client: Client, text: bytes, keys: tuple[bytes, ...]) -> tuple[str, bytes] | None:
        """The list that has ``text``, and its line."""
        found = self._everybody.match(text, keys)
        if found is not None:
            return self._everybody.name, found
        if client.relay is not None:
            return None
        if self._strangers is None:
            self._strangers = AddressList(self._rules, self.lists[1])
        found = self._strangers.match(text, keys)
        return None if found is None else (self._strangers.name, found)

    def close(self) -> None:
        self._everybody.close()
        if self._strangers is not None:
            self._strangers.close()


class BadHelo(_ListCheck):
    """badhelo, badhelonorelay: the name that the client greets with; whoever does not greet is not asked."""

    name = "badhelo"
    lists = ("badhelo", "badhelonorelay")

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        if client.helo is None:
            return None
        found = self.find(client, client.helo, name_keys(client.helo))
        return None if found is None else Verdict(BAD_HELO, evidence(found))


class BadSender(_ListCheck):
    """badmailfrom, badmailfromnorelay: the envelope sender; the empty one cannot be listed."""

    name = "badmailfrom"
    lists = ("badmailfrom", "badmailfromnorelay")

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        found = self.find(client, letter.sender, address_keys(letter.sender)) if letter.sender else None
        return None if found is None else Verdict(BAD_SENDER, evidence(found))


class BadRecipient(_ListCheck):
    """badrcptto, badrcpttonorelay: recipients that get no mail from the network."""

    name = "badrcptto"
    lists = ("badrcptto", "badrcpttonorelay")

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        found = self.find(client, address, address_keys(address))
        return None if found is None else Verdict(BAD_RECIPIENT)


def evidence(found: tuple[str, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """For the decision line: which expression of which list; a plain line can be found without."""
    if SPECIAL.isdisjoint(found[1]):
        return ()
    return ((b"list", b"%b:%b" % (found[0].encode(), safe(found[1][:100]))),)


class ValidRecipient(Check):
    """validrcptto: of a domain that has a line there, the recipients that exist, for one who only forwards its mail."""

    name = "validrcptto"

    def __init__(self, rules: Rules) -> None:
        self._list = AddressList(rules, "validrcptto", ("morevalidrcptto.cdb",))
        self.active = bool(self._list)

    def recipient(self, client: Client, letter: Letter, address: bytes) -> Verdict | None:
        if client.relay is not None or is_valid(self._list, address):
            return None
        return Verdict(NOT_VALID)

    def close(self) -> None:
        self._list.close()


def is_valid(known: AddressList, address: bytes) -> bool:
    """Whether the list has ``address``, or nothing about its domain. In this order: the address, ``-address``,
    ``@domain``, ``-@domain``."""
    address = address.lower()
    _, at, domain = address.rpartition(b"@")
    if not at:
        return True
    domain = at + domain
    if known.has(address):
        return True
    if known.has(DENY + address):
        return False
    return known.has(domain) or not known.has(DENY + domain)
