"""A connection to PostgreSQL, and what can be known of a transaction.

What goes wrong is Away, whatever psycopg raises: its errors are no OSErrors. A connection that was lost stays closed,
so the next statement makes another one. Whether a COMMIT whose answer is lost took place nobody knows.
"""

import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from psycopg.errors import Diagnostic

CONNECT_S = 5
STATEMENT_S = 20  # a server that takes longer is taken for one that is away


class Away(Exception):
    """The server does not answer, or says that it cannot."""


class Database:
    """One connection to the server, made when it is needed."""

    def __init__(self, url: str, password: str | None) -> None:
        self._url = url
        self._password = password
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._warned = False

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection that was not lost, as far as is known."""
        if self._connection is not None and _speaks(self._connection.fileno()):
            self.close()
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._url,
                password=self._password,
                autocommit=True,
                connect_timeout=CONNECT_S,
                application_name="qmail-shadowd",
                tcp_user_timeout=STATEMENT_S * 1000,
                keepalives_idle=STATEMENT_S,
                options=f"-c statement_timeout={STATEMENT_S}s -c lock_timeout={STATEMENT_S}s",
            )
            self._connection.add_notice_handler(self._notice)
            if self._connection.execute("SHOW synchronous_commit").fetchone() == ("off",):
                self._connection.execute("SET synchronous_commit = on")
        return self._connection

    def _notice(self, notice: Diagnostic) -> None:
        """A warning with a COMMIT says that no standby is known to have it."""
        self._warned = self._warned or notice.severity_nonlocalized == "WARNING"

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        """One transaction, committed with its end: Away where that is not known, and then it may be all the same."""
        with self._known() as connection, connection.transaction():
            yield connection

    def change(self, statement: LiteralString, values: Sequence[object]) -> int:
        """A transaction of one statement, in one exchange with the server: how many rows it changed. As above.

        Its values are $1, $2, ...
        """
        with self._known() as connection:
            return psycopg.RawCursor(connection).execute(statement, values).rowcount

    def number(self, statement: LiteralString, values: Sequence[object]) -> int:
        """The one number that such a statement answers with. As above."""
        with self._known() as connection:
            row = psycopg.RawCursor(connection).execute(statement, values).fetchone()
        return int(str(row[0])) if row else 0

    @contextmanager
    def _known(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        try:
            connection = self._connected()
            self._warned = False
            yield connection
        except psycopg.Error as error:
            self.close()
            raise Away(first_line(error)) from error
        if self._warned:
            raise Away("the server has committed, and its standby may not")

    def close(self) -> None:
        """Give the connection back; the next method makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _speaks(fd: int) -> bool:
    """Whether the server has said something between two transactions: as a rule that it hangs up."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def first_line(error: psycopg.Error) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
