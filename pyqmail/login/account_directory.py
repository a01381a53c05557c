"""Accounts in an LDAP directory: the searches of control/accounts, asked through python-ldap (qmail-accounts(8)).

A search is a URL of RFC 4516, ldap:///BASE?ATTRIBUTE,ATTRIBUTE?SCOPE?FILTER, whose attributes stand for the columns
that a query has: of several values each is a row. Values in a filter are escaped (RFC 4515). A password is checked by a
bind as the entry that the search `password` finds.
"""

import subprocess
import time
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import ldap
from ldap.controls import SimplePagedResultsControl
from ldap.filter import escape_filter_chars
from ldapurl import LDAPUrl

from pyqmail.login.account_settings import AccountSettings, AccountsTrouble

NETWORK_S, ANSWER_S = 10, 60
PAGE = 1000  # entries in memory at once (RFC 2696)
LOOK_S = 1.0  # from one look whether anything has changed to the next
BLIND_S = 60.0  # the same where the directory does not say: then all is read
SORT = ("/usr/bin/sort", "-S", "32M")
Row = tuple[bytes, ...]


class Search:
    """One of the settings as a search."""

    def __init__(self, name: str, text: str, fewest: int, most: int) -> None:
        """Raises AccountsTrouble."""
        try:
            url = LDAPUrl(text)
            attributes = [attribute for attribute in url.attrs or () if attribute]
        except ValueError:
            attributes = []
        if not fewest <= len(attributes) <= most:
            raise AccountsTrouble(f"control/accounts: {name} is no URL ldap:///BASE?ATTRIBUTES?SCOPE?FILTER")
        self.base = url.dn
        self.scope = ldap.SCOPE_SUBTREE if url.scope is None else url.scope
        self.filter = url.filterstr or "(objectClass=*)"
        self.attributes = attributes

    def of(self, address: str) -> str:
        """The filter for entries whose first attribute is ``address``."""
        return f"(&{self.filter}({self.attributes[0]}={escape_filter_chars(address)}))"


def explained(error: "ldap.LDAPError") -> str:
    """What the library says, which has no password."""
    found: Any = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return "LDAP: " + str(found.get("desc") or type(error).__name__)


class AccountDirectory:
    """One connection to a directory. All methods raise AccountsTrouble."""

    def __init__(self, settings: AccountSettings) -> None:
        self._settings = settings
        self._users = Search("users", settings.get("users"), 1, 3)
        self._aliases = self._optional("aliases")
        self._senders = self._optional("senders")
        try:
            self._ldap = self._connect()
            self._ldap.simple_bind_s(settings.get("binddn"), settings.get("bindpassword"))
        except (ldap.LDAPError, ValueError) as error:
            raise AccountsTrouble(explained(error) if isinstance(error, ldap.LDAPError) else "LDAP: no uri") from error

    def _optional(self, name: str) -> Search | None:
        text = self._settings.get(name)
        return Search(name, text, 2, 2) if text else None

    def _connect(self) -> Any:
        connection = ldap.initialize(self._settings.get("uri"))
        for option, value in (
            (ldap.OPT_PROTOCOL_VERSION, 3), (ldap.OPT_REFERRALS, 0),
            (ldap.OPT_NETWORK_TIMEOUT, NETWORK_S), (ldap.OPT_TIMEOUT, ANSWER_S),
        ):  # fmt: skip
            connection.set_option(option, value)
        if self._settings.get("cacert"):
            connection.set_option(ldap.OPT_X_TLS_CACERTFILE, self._settings.get("cacert"))
            connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        if self._settings.get("starttls") == "yes":
            connection.start_tls_s()
        return connection

    def domains(self) -> Iterator[Row]:
        """Each domain."""
        for row in self._rows(Search("domains", self._settings.get("domains"), 1, 1)):
            yield (row[0].lower(),)

    def addresses(self) -> Iterator[Row]:
        """Address, kind, value and quota, sorted by bytes: kind ``a`` with a target, then ``u`` with a directory."""
        yield from in_order(self._addresses(None))

    def some(self, addresses: Sequence[str]) -> Iterator[Row]:
        """Those rows of ``addresses`` whose address is one of these."""
        found = (row for address in addresses for row in self._addresses(address))
        yield from sorted({row for row in found if row[0].decode("utf-8", "replace") in addresses})

    def senders(self) -> Iterator[Row]:
        """User and address, sorted by bytes; no row where nothing is asked for."""
        if self._senders is not None:
            yield from in_order((row[0].lower(), row[1].lower()) for row in self._rows(self._senders))

    def _addresses(self, address: str | None) -> Iterator[Row]:
        for row in self._rows(self._users, address):
            mail, home, quota = (*row, b"", b"")[:3]
            yield mail.lower(), b"u", home, quota
        if self._aliases is not None:
            for alias, target in self._rows(self._aliases, address):
                yield alias.lower(), b"a", target, b""

    def _rows(self, search: Search, address: str | None = None) -> Iterator[Row]:
        """A row for each combination of the values of an entry's attributes; the first one must have some."""
        wanted = search.filter if address is None else search.of(address)
        for entry in self._entries(search.base, search.scope, wanted, search.attributes):
            found = {name.lower(): values for name, values in entry.items()}
            first, *others = [found.get(name.lower(), []) for name in search.attributes]
            if search is self._users:
                yield from product(first, *([values[0] if values else b""] for values in others))
            else:
                yield from product(first, *others)

    def _entries(
        self, base: str, scope: int, wanted: str, attributes: Sequence[str]
    ) -> Iterator[dict[str, list[bytes]]]:
        """The entries that a search finds, a page of them in memory."""
        page = SimplePagedResultsControl(True, size=PAGE, cookie="")
        try:
            while True:
                number = self._ldap.search_ext(base, scope, wanted, list(attributes), serverctrls=[page])
                _, found, _, controls = self._ldap.result3(number, timeout=ANSWER_S)
                for dn, entry in found:
                    if dn is not None:  # else it is a reference to elsewhere
                        yield entry
                cookies = [each.cookie for each in controls if each.controlType == page.controlType]
                if not cookies or not cookies[0]:
                    return
                page.cookie = cookies[0]
        except ldap.LDAPError as error:
            raise AccountsTrouble(explained(error)) from error

    def knows(self, address: str, password: bytes) -> bool:
        """Whether the directory lets somebody in as the entry of ``address`` with ``password``."""
        search = Search("password", self._settings.get("password"), 0, 1)
        name, _, domain = address.rpartition("@")
        wanted = search.filter
        for word, value in (("address", address), ("name", name), ("domain", domain)):
            wanted = wanted.replace(f"%({word})s", escape_filter_chars(value))
        try:
            found = self._ldap.search_ext_s(search.base, search.scope, wanted, ["1.1"], sizelimit=2)
            names = [dn for dn, _ in found if dn]
            if len(names) != 1 or not password:  # without a password a bind is anonymous, and succeeds (RFC 4513)
                return False
            own = self._connect()
            own.simple_bind_s(names[0], password.decode())
        except (ldap.INVALID_CREDENTIALS, ldap.NO_SUCH_OBJECT, UnicodeDecodeError):
            return False
        except ldap.LDAPError as error:
            raise AccountsTrouble(explained(error)) from error
        return True

    def changes(self) -> Iterator[str]:
        """The empty word where anything may have changed, and so at the beginning.

        An OpenLDAP with the overlay syncprov has a contextCSN, which changes with each write; others do not say.
        """
        before = self._context()
        while True:
            yield ""
            waited_s = 0.0
            while before == (now := self._context()) and (now or waited_s < BLIND_S):
                time.sleep(LOOK_S)
                waited_s += LOOK_S
            before = now

    def _context(self) -> tuple[bytes, ...]:
        base = self._settings.get("base") or self._users.base
        found = self._entries(base, ldap.SCOPE_BASE, "(objectClass=*)", ["contextCSN"])
        return tuple(value for entry in found for values in entry.values() for value in values)


def in_order(rows: Iterator[Row]) -> Iterator[Row]:
    """``rows`` sorted by bytes, through sort(1), whose memory is bounded; those that are no lines come first."""
    with subprocess.Popen(SORT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"LC_ALL": "C"}) as process:
        assert process.stdin is not None and process.stdout is not None
        with process.stdin as unsorted:
            for row in rows:
                line = b"\0".join(row)
                if b"\n" in line or line.count(b"\0") != len(row) - 1:
                    yield row
                else:
                    unsorted.write(line + b"\n")
        for line in process.stdout:
            yield tuple(line[:-1].split(b"\0"))
    if process.returncode:
        raise AccountsTrouble("sort(1) has failed: is there room in /tmp?")
