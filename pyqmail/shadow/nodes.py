"""Nodes in the database: who has a lease, whose messages are whose, and what is adopted (qmail-shadowd(8))."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from pyqmail.shadow.database import Database
from pyqmail.shadow.store import Fenced, Node

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
OWN = "SELECT epoch FROM shadow_node WHERE queue = %s AND until > now()"
DEAD = "SELECT queue::text, name FROM shadow_node WHERE until <= now() AND queue <> %s ORDER BY until"
UNKNOWN = (
    "SELECT owner::text, count(*) FROM shadow_message"
    " WHERE NOT EXISTS (SELECT FROM shadow_node WHERE queue = owner) GROUP BY owner ORDER BY owner"
)
NOBODY = ""  # the machine of a node that was made known again
KNOW_AGAIN = (  # its epoch is later than any that it can have had
    "INSERT INTO shadow_node (queue, name, machine, epoch, until)"
    f" SELECT %s, %s, '{NOBODY}', extract(epoch FROM now())::bigint, now() + %s * interval '1 second'"
    " ON CONFLICT DO NOTHING"
)
FENCE = "UPDATE shadow_node SET epoch = epoch + 1 WHERE queue = %s AND until <= now() RETURNING 1"
GIVE_UP = (
    "INSERT INTO shadow_taken (queue, id) SELECT owner, id FROM shadow_message WHERE owner = %s ON CONFLICT DO NOTHING"
)
ADOPT = "UPDATE shadow_message SET owner = %s, taking = true WHERE owner = %s"
NEXT = (
    "SELECT id::text, facts, envelope, message, extract(epoch FROM born)::bigint, size FROM shadow_message"
    " WHERE owner = %s AND taking AND NOT id = ANY(%s::uuid[]) ORDER BY born LIMIT 1 FOR UPDATE SKIP LOCKED"
)
READ_PART = "SELECT data FROM shadow_part WHERE id = %s AND number = %s"
LACKED = "UPDATE shadow_message SET taking = true WHERE owner = %s AND NOT taking AND NOT id = ANY(%s::uuid[])"
TAKEN = "SELECT replace(id::text, '-', '') FROM shadow_taken WHERE queue = %s"
FORGET = "DELETE FROM shadow_taken WHERE adopted < now() - interval '30 days'"


class Taken(Exception):
    """Somebody else lives under this name, or with this queue."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A message of another node, to be put into this one's queue. ``done``: the recipients that it needs no more."""

    identity: str
    birth: int  # seconds since 1970
    facts: bytes
    envelope: bytes
    done: list[bytes]
    size: int  # bytes of all parts, if none has gone
    parts: Iterator[bytes]


class Nodes(Database):
    """What is done with nodes. Each method raises Away."""

    def register(self, queue: str, name: str, machine: str, seconds: float, present: Collection[str]) -> Node:
        """Be the node that has ``queue``, for so long. Raises Taken.

        The lease of an earlier start of this very machine is taken over at once, that of another one when it has ended.
        Then what is this queue's and not ``present`` is to be taken in (take_in): without a lease nothing that has a
        copy has come into the queue meanwhile. While the machine goes on, so may those who put messages there and have
        not finished: then nothing is known of what it lacks, nor where this node was made known again.
        """
        epoch = 1
        with self.transaction() as connection:
            for other, place, its_epoch, alive in connection.execute(NODES, (queue, name)).fetchall():
                if other == queue:
                    if alive and place not in (machine, NOBODY):
                        raise Taken("queue/pyqmail/id is that of another machine, whose lease has not ended")
                    epoch = int(str(its_epoch))
                    if place not in (machine, NOBODY):
                        connection.execute(LACKED, (queue, list(present)))
                elif alive:
                    raise Taken(f"another queue, {other}, is called {name}: one of both needs another control/me")
                else:
                    connection.execute(RENAME, (other,))
            connection.execute(REGISTER, (queue, name, machine, seconds))
        return Node(queue, epoch)

    def note_lacked(self, queue: str, present: Collection[str]) -> int:
        """What is this queue's and not ``present`` is to be taken in, too: how many messages.

        Nobody may put anything into the queue meanwhile, or take anything out.
        """
        with self.transaction() as connection:
            return connection.execute(LACKED, (queue, list(present))).rowcount

    def renew(self, node: Node, machine: str, seconds: float) -> None:
        """Be it for so long again, from now. Raises Fenced."""
        with self.transaction() as connection:
            if connection.execute(RENEW, (seconds, node.queue, machine, node.epoch)).fetchone() is None:
                raise Fenced

    def own(self, queue: str) -> Node | None:
        """The node that has ``queue``, while it has a lease."""
        with self.transaction() as connection:
            row = connection.execute(OWN, (queue,)).fetchone()
        return Node(queue, int(str(row[0]))) if row else None

    def adopt(self, node: Node, names: Sequence[str]) -> list[tuple[str, int]]:
        """Make this node's what nodes without a lease have, all of them or those of ``names``: each, and how many.

        Of all of them those without messages are left out; of ``names``, which may be queues, those that have a lease.
        One transaction for each, that holds its row: of two nodes that adopt at once one finds nothing left.
        """
        found = []
        with self.transaction() as connection:
            dead = connection.execute(DEAD, (node.queue,)).fetchall()
        for queue, name in dead:
            if names and queue not in names and name not in names:
                continue
            with self.transaction() as connection:
                if connection.execute(FENCE, (queue,)).fetchone() is None:
                    continue
                connection.execute(GIVE_UP, (queue,))
                count = connection.execute(ADOPT, (node.queue, queue)).rowcount
            if count or names:
                found.append((str(queue if queue in names else name), count))
        return found

    def unknown(self) -> list[tuple[str, int]]:
        """Owners of messages that no node is, since its row was removed by hand: each, and how many messages."""
        with self.transaction() as connection:
            return [(str(row[0]), int(str(row[1]))) for row in connection.execute(UNKNOWN)]

    def know_again(self, queue: str, seconds: float) -> None:
        """Let ``queue`` be a node again whose lease ends after that: nobody knows when the one that it had does.

        If there is such a node, it takes this over with its next word.
        """
        with self.transaction() as connection:
            connection.execute(KNOW_AGAIN, (queue, queue, seconds))

    def take_in(self, node: Node, take: Callable[[Adopted], bool], but: Collection[str] = ()) -> bool | None:
        """Offer ``take`` one message that is in no queue yet, none of ``but``: whether it was taken; None without one.

        The row is locked meanwhile, and removed then: whoever comes at the same time gets another one.
        """
        with self.transaction() as connection:
            row = connection.execute(NEXT, (node.queue, list(but))).fetchone()
            if row is None:
                return None
            identity, facts, envelope, first = str(row[0]), bytes(row[1]), bytes(row[2]), bytes(row[3])  # type: ignore[call-overload]
            marks = connection.execute("SELECT recipient FROM shadow_done WHERE id = %s", (identity,)).fetchall()
            done = [bytes(mark[0]) for mark in marks]  # type: ignore[call-overload]

            def parts() -> Iterator[bytes]:
                yield first
                number = 1
                while part := connection.execute(READ_PART, (identity, number)).fetchone():
                    yield bytes(part[0])  # type: ignore[call-overload]
                    number += 1

            birth, size = int(str(row[4])), int(str(row[5]))
            if not take(Adopted(identity, birth, facts, envelope, done, size, parts())):
                return False
            connection.execute("DELETE FROM shadow_message WHERE id = %s", (identity,))
        return True

    def taken(self, node: Node) -> frozenset[str]:
        """The IDs that others have adopted of this node's messages, and that it has not given up yet."""
        with self.transaction() as connection:
            connection.execute(FORGET)
            return frozenset(str(row[0]) for row in connection.execute(TAKEN, (node.queue,)))
