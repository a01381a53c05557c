"""The copies in PostgreSQL: control-examples/cluster/schema.sql is what is there, this is what is done with it.

What goes wrong is Away, whatever psycopg raises: its errors are no OSErrors. A connection that was lost stays closed,
so the next statement makes another one. Whether a COMMIT whose answer is lost took place nobody knows.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.errors import Diagnostic

CONNECT_S = 5
STATEMENT_S = 20  # a server that takes longer is taken for one that is away
PART_BYTES = 256 << 10  # of a message in one row
ENVELOPE_MAX = 16 << 20  # bytes; a longer one is not copied

NODES = "SELECT queue::text, machine, epoch, until > now() FROM shadow_node WHERE queue = %s OR name = %s FOR UPDATE"
REGISTER = (
    "INSERT INTO shadow_node (queue, name, machine, until) VALUES (%s, %s, %s, now() + %s * interval '1 second')"
    " ON CONFLICT (queue) DO UPDATE SET (name, machine, until) = (EXCLUDED.name, EXCLUDED.machine, EXCLUDED.until)"
)
RENAME = "UPDATE shadow_node SET name = queue::text WHERE queue = %s"
RENEW = (
    "UPDATE shadow_node SET until = now() + %s * interval '1 second'"
    " WHERE queue = %s AND machine = %s AND epoch = %s RETURNING 1"
)
HOLD = "SELECT 1 FROM shadow_node WHERE queue = %s AND epoch = %s FOR KEY SHARE"
INSERT = "INSERT INTO shadow_message (id, owner, size, facts, envelope, message) VALUES (%s, %s, %s, %s, %s, %s)"
PART = "INSERT INTO shadow_part (id, number, data) VALUES (%s, %s, %s)"
REMOVE = "DELETE FROM shadow_message WHERE id = ANY(%s::uuid[]) AND owner = %s"
SIZE = "SELECT coalesce(sum(size), 0) FROM shadow_message WHERE owner = %s"


class Away(Exception):
    """The server does not answer, or says that it cannot."""


class Fenced(Exception):
    """What this node had was adopted: it may not go on as if it were not."""


class Taken(Exception):
    """Somebody else lives under this name, or with this queue."""


@dataclass(frozen=True, slots=True)
class Node:
    """Who owns copies: a queue, in one of its lives."""

    queue: str
    epoch: int


class Copy:
    """One message to be copied: two open files, which are closed by ``close``."""

    __slots__ = ("envelope", "facts", "identity", "message", "size")

    def __init__(self, identity: str, facts: bytes, message: int, envelope: int) -> None:
        self.identity = identity
        self.facts = facts
        self.message = message
        self.envelope = envelope
        self.size = os.fstat(message).st_size

    @property
    def large(self) -> bool:
        """Whether it needs more than one row."""
        return self.size > PART_BYTES

    def close(self) -> None:
        """Give the files back."""
        os.close(self.message)
        os.close(self.envelope)

    def row(self, node: Node) -> tuple[object, ...]:
        """Its first row. Raises OSError, and Away for an envelope that is too long."""
        if os.fstat(self.envelope).st_size > ENVELOPE_MAX:
            raise Away("the envelope is too long")
        envelope = os.pread(self.envelope, ENVELOPE_MAX, 0)
        return self.identity, node.queue, self.size, self.facts, envelope, os.pread(self.message, PART_BYTES, 0)

    def further_rows(self) -> Iterator[tuple[object, ...]]:
        """The others, one at a time. Raises OSError."""
        number, offset = 1, PART_BYTES
        while data := os.pread(self.message, PART_BYTES, offset):
            yield self.identity, number, data
            number, offset = number + 1, offset + len(data)


class Store:
    """One connection to the server, made when it is needed. Each method raises Away."""

    def __init__(self, url: str, password: str | None) -> None:
        self._url = url
        self._password = password
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._warned = False

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection that was not lost, as far as is known."""
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
        try:
            connection = self._connected()
            self._warned = False
            with connection.transaction():
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

    def register(self, queue: str, name: str, machine: str, seconds: float) -> Node:
        """Be the node that has ``queue``, for so long. Raises Taken.

        The lease of an earlier start of this very machine is taken over at once, that of another one when it has ended.
        """
        epoch = 1
        with self.transaction() as connection:
            for other, place, its_epoch, alive in connection.execute(NODES, (queue, name)).fetchall():
                if other == queue:
                    if alive and place != machine:
                        raise Taken("queue/pyqmail/id is that of another machine, whose lease has not ended")
                    epoch = int(str(its_epoch))
                elif alive:
                    raise Taken(f"another queue, {other}, is called {name}: one of both needs another control/me")
                else:
                    connection.execute(RENAME, (other,))
            connection.execute(REGISTER, (queue, name, machine, seconds))
        return Node(queue, epoch)

    def renew(self, node: Node, machine: str, seconds: float) -> None:
        """Be it for so long again, from now. Raises Fenced."""
        with self.transaction() as connection:
            if connection.execute(RENEW, (seconds, node.queue, machine, node.epoch)).fetchone() is None:
                raise Fenced

    def add(self, node: Node, copies: Sequence[Copy]) -> None:
        """Copy all of ``copies`` in one transaction. Raises OSError too, and Fenced."""
        with self.transaction() as connection:
            rows = [copy.row(node) for copy in copies]
            with connection.pipeline():
                held = connection.execute(HOLD, (node.queue, node.epoch))
                connection.cursor().executemany(INSERT, rows)
                if held.fetchone() is None:
                    raise Fenced
            for copy in copies:
                if copy.large:
                    for row in copy.further_rows():
                        connection.execute(PART, row)

    def remove(self, node: Node, identities: Iterable[str]) -> None:
        """Remove what this node has of ``identities``."""
        with self.transaction() as connection:
            connection.execute(REMOVE, (list(identities), node.queue))

    def size(self, node: Node) -> int:
        """Bytes of all messages that this node has copied."""
        with self.transaction() as connection:
            row = connection.execute(SIZE, (node.queue,)).fetchone()
        return int(str(row[0])) if row else 0


def first_line(error: psycopg.Error) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
