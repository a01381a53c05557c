"""Accounts in PostgreSQL: the queries of control/accounts, asked through psycopg (qmail-accounts(8)).

    domains     one column: the domain
    users       address, then the directory of the mail below `homes`, then a quota; the last two may be missing
    aliases     address and target; several rows for an address, or several targets with commas between them
    senders     user and address: what control/mailfromrules says of somebody
    password    one column, the hash; asked for one user, with %(address)s, or %(name)s and %(domain)s, in it

Values reach the server as parameters. What comes back is text; an address is in lower case, ASCII's alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyqmail.login import hashes, passwords
from pyqmail.login.account_settings import AccountSettings, AccountsTrouble

CONNECT_S = 10
CHANNEL = "qmail_accounts"
LOCK_S, STATEMENT_S = 30, 600  # for PostgreSQL to wait for a lock, and to answer one question
PIECE = 5000  # rows in memory at once
# What each query's columns are called here: the first ones must be there, the rest counts as empty.
COLUMNS = {
    "domains": ("domain",),
    "users": ("address", "home", "quota"),
    "aliases": ("address", "target"),
    "senders": ("login", "address"),
}
FEWEST = {"domains": 1, "users": 1, "aliases": 2, "senders": 2}
USUAL: Mapping[str, str | int] = {
    "connect_timeout": CONNECT_S,
    "application_name": "qmail-accounts",
    "client_encoding": "UTF8",
    "keepalives_idle": 30,
    "tcp_user_timeout": 30000,
}
Row = tuple[bytes, ...]


def connect(settings: AccountSettings, **more: Any) -> "psycopg.Connection[Any]":
    """A connection as ``connection`` says. Raises AccountsTrouble."""
    try:
        said = conninfo_to_dict(settings.get("connection"))
        usual: Any = {name: value for name, value in USUAL.items() if name not in said}
    except psycopg.Error:
        raise AccountsTrouble("control/accounts: connection is no connection string of PostgreSQL") from None
    try:
        return psycopg.connect(make_conninfo(settings.get("connection"), **usual), **more)
    except psycopg.Error as error:
        raise AccountsTrouble(explained(error)) from error


def explained(error: psycopg.Error) -> str:
    """The first line of what PostgreSQL says, which has no password."""
    lines = str(error).strip().splitlines()
    return "PostgreSQL: " + (lines[0] if lines else type(error).__name__)


class AccountDatabase:
    """One connection that reads one state of the database. All methods raise AccountsTrouble."""

    def __init__(self, settings: AccountSettings) -> None:
        self._settings = settings
        self._connection = connect(settings)
        self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._connection.read_only = True
        try:
            self._connection.execute(
                f"SET lock_timeout = '{LOCK_S}s'; SET statement_timeout = '{STATEMENT_S}s'".encode()
            )
        except psycopg.Error as error:
            raise AccountsTrouble(explained(error)) from error

    def domains(self) -> Iterator[Row]:
        """Each domain."""
        return self._rows(f'SELECT lower(domain COLLATE "C") FROM ({self._part("domains")}) AS d')

    def addresses(self) -> Iterator[Row]:
        """Address, kind, value and quota, sorted by bytes: kind ``a`` with a target, then ``u`` with a directory."""
        return self._rows(f"SELECT * FROM ({self._both()}) AS listed ORDER BY address, kind, value")

    def some(self, addresses: Sequence[str]) -> Iterator[Row]:
        """Those rows of ``addresses`` whose address is one of these."""
        query = self._both().replace("%", "%%")
        query = f"SELECT * FROM ({query}) AS listed WHERE address = ANY(%(addresses)s) ORDER BY address, kind, value"
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(query.encode(), {"addresses": list(addresses)})
                yield from map(_fields, cursor)
        except psycopg.Error as error:
            raise AccountsTrouble(explained(error)) from error

    def knows(self, address: str, password: bytes) -> bool:
        """Whether ``password`` is that of ``address``. Raises HashFormat too."""
        name, _, domain = address.rpartition("@")
        values = {"address": address, "name": name, "domain": domain}
        try:
            rows = self._connection.execute(self._settings.get("password").encode(), values).fetchmany(2)
        except psycopg.Error as error:
            raise AccountsTrouble(explained(error)) from error
        if len(rows) > 1:
            raise AccountsTrouble("control/accounts: password finds more than one row")
        stored = str(rows[0][0] or "").encode() if rows else b""
        if not stored:
            passwords.waste_time(password)
            return False
        return hashes.verify(stored, password)

    def changes(self) -> Iterator[str]:
        """Each address that has changed, as it comes; empty where anything may have, and so at the beginning."""
        try:
            self._connection.rollback()
            self._connection.autocommit = True
            self._connection.execute(f"LISTEN {CHANNEL}".encode())
            yield ""
            for notification in self._connection.notifies():
                yield notification.payload
        except psycopg.Error as error:
            raise AccountsTrouble(explained(error)) from error

    def senders(self) -> Iterator[Row]:
        """User and address, sorted by bytes; no row where nothing is asked for."""
        if not self._settings.get("senders"):
            return iter(())
        columns = 'lower(login COLLATE "C") COLLATE "C", lower(address COLLATE "C") COLLATE "C"'
        return self._rows(f"SELECT {columns} FROM ({self._part('senders')}) AS s ORDER BY 1, 2")

    def _both(self) -> str:
        parts = [_addresses(self._part("users"), "u", "home", "quota")]
        if self._settings.get("aliases"):
            parts.append(_addresses(self._part("aliases"), "a", "target", "''"))
        return " UNION ALL ".join(parts)

    def _part(self, table: str) -> str:
        """The query of ``table`` with our names for its columns, all of them text."""
        query = self._settings.get(table)
        names = COLUMNS[table]
        found = len(self._described(query, table))
        if not FEWEST[table] <= found <= len(names):
            raise AccountsTrouble(f"control/accounts: {table} is a query with the columns {', '.join(names)}")
        columns = [f"{name}::text AS {name}" for name in names[:found]]
        columns += [f"'' AS {name}" for name in names[found:]]
        return f"SELECT {', '.join(columns)} FROM ({query}\n) AS q({', '.join(names[:found])})"

    def _described(self, query: str, table: str) -> "list[psycopg.Column]":
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(f"SELECT * FROM ({query}\n) AS q LIMIT 0".encode())
                return cursor.description or []
        except psycopg.Error as error:
            raise AccountsTrouble(f"control/accounts: {table}: {explained(error)}") from error

    def _rows(self, query: str) -> Iterator[Row]:
        """The rows of a query, PIECE of them in memory."""
        try:
            with self._connection.cursor(name="qmail_accounts") as cursor:
                cursor.itersize = PIECE
                cursor.execute(query.encode())
                for row in cursor:
                    yield _fields(row)
        except psycopg.Error as error:
            raise AccountsTrouble(explained(error)) from error


def _fields(row: Sequence[str | None]) -> Row:
    return tuple((field or "").encode() for field in row)


def _addresses(query: str, kind: str, value: str, quota: str) -> str:
    """One of the two queries for addresses; COLLATE "C" makes lower() and ORDER BY those of bytes."""
    return (
        f'SELECT lower(address COLLATE "C") COLLATE "C" AS address, \'{kind}\' AS kind,'
        f' {value} COLLATE "C" AS value, {quota} AS quota FROM ({query}) AS {kind}'
    )
