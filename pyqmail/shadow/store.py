"""The copies in PostgreSQL: control-examples/cluster/schema.sql is what is there, this is what is done with it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg

from pyqmail.protocol.shadow import COPY_WORDS, is_id
from pyqmail.shadow.database import Database

PART_BYTES = 256 << 10  # of a message in one row
ADOPTED = "others have adopted the messages of this queue"
ENVELOPE_MAX = 16 << 20  # bytes; a longer one is not copied
TOO_LONG = "the envelope is too long"

INSERT = (  # a row for each element of the arrays, or none: this node stays what it is until they are there
    "INSERT INTO shadow_message (id, owner, size, facts, envelope, message)"
    " SELECT id, queue, size, facts, envelope, message FROM shadow_node,"
    " unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[])"
    " AS copy (id, size, facts, envelope, message)"
    " WHERE queue = $6 AND epoch = $7 FOR KEY SHARE OF shadow_node"
)
PART = "INSERT INTO shadow_part (id, number, data) VALUES (%s, %s, %s)"
REMOVE = (
    "WITH given_up AS (DELETE FROM shadow_taken WHERE id = ANY($1::uuid[]) AND queue = $2),"
    " gone AS (DELETE FROM shadow_message WHERE id = ANY($1::uuid[]) AND owner = $2"
    " RETURNING size + octet_length(facts) + octet_length(envelope) AS bytes)"
    " SELECT coalesce(sum(bytes), 0)::bigint FROM gone"
)
MARK = (
    "INSERT INTO shadow_done (id, place, recipient) SELECT id, %s, %s FROM shadow_message WHERE id = %s AND owner = %s"
    " ON CONFLICT DO NOTHING"
)
STORED = (
    "SELECT coalesce(sum(size + octet_length(facts) + octet_length(envelope)), 0)::bigint"
    " FROM shadow_message WHERE owner = $1"
)


class Fenced(Exception):
    """What this node had was adopted: it may not go on as if it were not."""


class Refused(Exception):
    """The queue did not take a message; the text says why."""


@dataclass(frozen=True, slots=True)
class Node:
    """Who owns copies: a queue, in one of its lives."""

    queue: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A recipient that needs no other delivery."""

    identity: str
    place: str
    recipient: bytes


class Copy:
    """One message to be copied: two open files, which are closed by ``close``.

    ``size`` is the message's, ``stored`` what the database gets of it: its envelope and facts too.
    """

    __slots__ = ("envelope", "envelope_size", "facts", "identity", "message", "size", "stored")

    def __init__(self, identity: str, facts: bytes, message: int, envelope: int) -> None:
        self.identity = identity
        self.facts = facts
        self.message = message
        self.envelope = envelope
        self.size = os.fstat(message).st_size
        self.envelope_size = os.fstat(envelope).st_size
        self.stored = self.size + len(facts) + self.envelope_size

    @property
    def large(self) -> bool:
        """Whether it needs more than one row."""
        return self.size > PART_BYTES

    @property
    def too_long(self) -> bool:
        """Whether its envelope is more than is copied."""
        return self.envelope_size > ENVELOPE_MAX

    @property
    def row_bytes(self) -> int:
        """What its first row takes in memory."""
        return self.stored - max(0, self.size - PART_BYTES)

    def close(self) -> None:
        """Give the files back."""
        os.close(self.message)
        os.close(self.envelope)

    def row(self) -> tuple[UUID, int, bytes, bytes, bytes]:
        """Its first row. Raises OSError."""
        envelope = os.pread(self.envelope, ENVELOPE_MAX, 0)
        return UUID(self.identity), self.size, self.facts, envelope, os.pread(self.message, PART_BYTES, 0)

    def further_rows(self) -> Iterator[tuple[object, ...]]:
        """The others, one at a time. Raises OSError."""
        number, offset = 1, PART_BYTES
        while data := os.pread(self.message, PART_BYTES, offset):
            yield self.identity, number, data
            number, offset = number + 1, offset + len(data)


class SmallCopy:
    """One message to be copied that came whole; sizes as above."""

    __slots__ = ("envelope", "facts", "identity", "message", "size", "stored")

    def __init__(self, identity: str, facts: bytes, envelope: bytes, message: bytes) -> None:
        self.identity = identity
        self.facts = facts
        self.envelope = envelope
        self.message = message
        self.size = len(message)
        self.stored = self.size + len(facts) + len(envelope)


def copies_asked(words: list[bytes], fds: list[int]) -> Sequence[Copy | SmallCopy]:
    """The message in ``fds`` that the words of a record tell of, or those that are in it whole; else none."""
    if fds:
        if len(words) != 2 or len(fds) != 2 or not is_id(words[0]):
            return ()
        return (Copy(words[0].decode(), words[1], fds[0], fds[1]),)
    ids = words[::COPY_WORDS]
    if len(words) != COPY_WORDS * len(ids) or not all(map(is_id, ids)):
        return ()
    rest = (words[place::COPY_WORDS] for place in range(1, COPY_WORDS))
    return [SmallCopy(identity.decode(), *parts) for identity, *parts in zip(ids, *rest, strict=True)]


class Store(Database):
    """What is done with copies. Each method raises Away."""

    def add(self, node: Node, copies: Sequence[Copy]) -> None:
        """Copy all of ``copies`` in one transaction. Raises OSError too, and Fenced."""
        columns = map(list, zip(*(copy.row() for copy in copies), strict=True))
        values = (*columns, node.queue, node.epoch)
        large = [copy for copy in copies if copy.large]
        if not large:
            count = self.change(INSERT, values)
        else:
            with self.transaction() as connection:
                count = psycopg.RawCursor(connection).execute(INSERT, values).rowcount
                for row in (row for copy in large if count for row in copy.further_rows()):
                    connection.execute(PART, row)
        if not count:
            raise Fenced

    def remove(self, node: Node, identities: Iterable[str]) -> int:
        """Remove what this node has of ``identities``: how many bytes that were.

        What others have of them is not told to it again.
        """
        array = f"{{{','.join(identities)}}}"  # as text: it is checked, and spares objects
        return self.number(REMOVE, (array, node.queue))

    def mark(self, node: Node, marks: Iterable[Mark]) -> None:
        """These recipients need no other delivery; a message that is not this node's is let be."""
        with self.transaction() as connection:
            rows = [(mark.place, mark.recipient, mark.identity, node.queue) for mark in marks]
            connection.cursor().executemany(MARK, rows)

    def stored(self, node: Node) -> int:
        """Bytes of all copies that this node has, with their envelopes and facts."""
        return self.number(STORED, (node.queue,))
