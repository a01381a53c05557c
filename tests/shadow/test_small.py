"""Small messages are copied by the loop: what one transaction has, what waits, and what a server may do meanwhile."""

import os
import signal
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pyqmail.shadow import small as module
from pyqmail.shadow.database import Away
from pyqmail.shadow.nodes import Nodes
from pyqmail.shadow.small import COPIES_MAX, TYPES, SmallCopies
from pyqmail.shadow.statement import BYTEAS, Statement, array
from pyqmail.shadow.store import INSERT, Node, SmallCopy
from pyqmail.system.loop import Loop
from tests.postgresql import PASSWORD, PostgreSQL
from tests.waiting import wait_for

HEAD = b"u1\0p2\0Fann@x\0Ta@x\0"


class Bench:
    """What has small messages copied, with a loop of its own."""

    def __init__(self, url: str, node: Node | None) -> None:
        self.node = node
        self.loop = Loop()
        self.said: list[tuple[list[str], str | None]] = []
        self.statement = Statement(url, PASSWORD, INSERT.encode(), TYPES)
        self._told, self._telling = os.pipe()
        self._tasks: list[module.Result] = []
        self.loop.add_reader(self._told, self._do)
        self.copies = SmallCopies(self.loop, self.statement, lambda: self.node, self._copied, self.tell)

    def _copied(self, batch: Sequence[SmallCopy], why: str | None) -> None:
        self.said.append(([copy.identity for copy in batch], why))

    def tell(self, result: module.Result) -> None:
        """Have the loop do that."""
        self._tasks.append(result)
        os.write(self._telling, b"x")

    def _do(self) -> None:
        os.read(self._told, 1)
        self._tasks.pop(0)()

    def put(self, *messages: bytes) -> list[str]:
        """Ask for copies; their IDs."""
        made = [SmallCopy(uuid.uuid4().hex, b"", HEAD, message) for message in messages]
        for copy in made:
            self.copies.put(copy)
        return [copy.identity for copy in made]

    def answers(self, count: int) -> list[tuple[list[str], str | None]]:
        """The next ``count`` outcomes."""

        def there() -> bool:
            self.loop.run_once(0.05)
            return len(self.said) >= count

        wait_for(there, f"{count} answers")
        said, self.said = self.said[:count], self.said[count:]
        return said

    def close(self) -> None:
        self.statement.close()
        self.loop.close()
        os.close(self._told)
        os.close(self._telling)


@pytest.fixture
def node(database: PostgreSQL) -> Iterator[Node]:
    nodes = Nodes(database.url, PASSWORD)
    queue = str(uuid.uuid4())
    made = nodes.register(queue, queue + ".test", "here", 300.0, ())
    nodes.close()
    yield made
    database.run(f"DELETE FROM shadow_message WHERE owner = '{queue}'; DELETE FROM shadow_node WHERE queue = '{queue}'")


@pytest.fixture
def bench(database: PostgreSQL, node: Node) -> Iterator[Bench]:
    made = Bench(database.url, node)
    yield made
    made.close()


def rows(database: PostgreSQL, node: Node) -> dict[str, str]:
    """The messages that the server has, by ID."""
    lines = database.run(
        "SELECT replace(id::text, '-', '') || ' ' || encode(message, 'hex') FROM shadow_message"
        f" WHERE owner = '{node.queue}' AND envelope = '\\x{HEAD.hex()}' AND facts = '' AND NOT taking"
        " AND size = length(message)"
    )
    return dict(line.split(" ") for line in lines)


def test_what_comes_together_is_one_transaction_and_every_byte_is_kept(
    database: PostgreSQL, node: Node, bench: Bench
) -> None:
    messages = [b"", bytes(range(256)) * 100, b"'\\x00{}\",NULL"]
    ids = bench.put(*messages)
    assert bench.answers(1) == [(ids, None)]
    assert rows(database, node) == {identity: text.hex() for identity, text in zip(ids, messages, strict=True)}


def test_what_comes_while_one_is_under_way_makes_the_next_up_to_a_bound(
    database: PostgreSQL, node: Node, bench: Bench
) -> None:
    bench.answers(len([bench.put(b"first")]))  # the connection is there
    large = b"x" * 30_000  # more together than a socket takes at once
    ids = bench.put(*[large] * (COPIES_MAX * 2 + 1))
    said = bench.answers(3)
    assert [(len(batch), why) for batch, why in said] == [(COPIES_MAX, None), (COPIES_MAX, None), (1, None)]
    assert [identity for batch, _ in said for identity in batch] == ids
    assert len(rows(database, node)) == len(ids) + 1


def test_more_than_may_wait_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 2)
    ids = bench.put(b"1", b"2", b"3")
    assert bench.answers(2) == [(ids[2:], "too many wait"), (ids[:2], None)]


def test_without_a_lease_and_after_an_adoption_nothing_is_copied(
    database: PostgreSQL, node: Node, bench: Bench
) -> None:
    bench.node = None
    assert bench.answers(len([bench.put(b"x")]))[0][1] == "this node has no lease"
    bench.node = Node(node.queue, node.epoch + 1)
    assert bench.answers(len([bench.put(b"x")]))[0][1] == "others have adopted the messages of this queue"
    assert rows(database, node) == {}


def test_a_statement_that_fails_copies_none_and_the_server_is_left_alone_for_a_while(
    database: PostgreSQL, node: Node, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = SmallCopy(uuid.uuid4().hex, b"", HEAD, b"twice")
    for _ in range(2):
        bench.copies.put(copy)
    ((batch, why),) = bench.answers(1)
    assert len(batch) == 2 and why is not None and "duplicate key" in why
    bench.put(b"at once")
    assert bench.answers(1)[0][1] == why
    monkeypatch.setattr(module.time, "monotonic", lambda now=module.time.monotonic: now() + module.AGAIN_S)
    ids = bench.put(b"later")
    assert bench.answers(1) == [(ids, None)]


def test_a_commit_that_fails_is_no_copy(database: PostgreSQL, node: Node, bench: Bench) -> None:
    database.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'at the end'; END$$;"
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON shadow_message DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    try:
        bench.put(b"x")
        ((_, why),) = bench.answers(1)
        assert why is not None and "at the end" in why
        assert rows(database, node) == {}
    finally:
        database.run("DROP TRIGGER late ON shadow_message; DROP FUNCTION refuse()")


def test_what_a_server_warns_of_is_no_copy(database: PostgreSQL, bench: Bench) -> None:
    database.run(
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'canceling'; RETURN NULL;"
        " END$$; CREATE CONSTRAINT TRIGGER late AFTER INSERT ON shadow_message DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION warn()"
    )
    try:
        bench.put(b"x")
        assert bench.answers(1)[0][1] == "the server has committed, and its standby may not"
    finally:
        database.run("DROP TRIGGER late ON shadow_message; DROP FUNCTION warn()")


def backend(database: PostgreSQL) -> int:
    """The server's process that has made the last copy."""
    sql = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'INSERT INTO shadow_message%' ORDER BY query_start DESC"
    return int(database.run(sql + " LIMIT 1")[0])


def test_a_connection_that_the_server_has_ended_is_not_used(database: PostgreSQL, bench: Bench) -> None:
    bench.answers(len([bench.put(b"first")]))
    pid = backend(database)
    database.run(f"SELECT pg_terminate_backend({pid})")
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "its end")
    ids: list[str] = []
    bench.tell(lambda: ids.extend(bench.put(b"second")))  # in one turn of the loop with the server's end
    assert bench.answers(1) == [(ids, None)]


def test_a_server_that_stops_in_the_middle_is_given_up(
    database: PostgreSQL, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.1)
    bench.answers(len([bench.put(b"first")]))
    pid = backend(database)
    os.kill(pid, signal.SIGSTOP)
    try:
        ids = bench.put(b"asked")
        bench.loop.run_once(0)
        ids += bench.put(b"waits")
        assert bench.answers(1) == [(ids, "the server does not answer")]
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_server_that_is_not_there_copies_none_of_those_that_wait(node: Node) -> None:
    bench = Bench("postgresql://nobody@127.0.0.1:1/none", node)
    try:
        ids = bench.put(b"1", b"2")
        ((batch, why),) = bench.answers(1)
        assert batch == ids and why
        with pytest.raises(Away):
            bench.statement.prepare()
    finally:
        bench.close()


def test_an_array_is_what_the_server_reads() -> None:
    head = "0000000100000000000000110000000200000001"
    assert array(BYTEAS, [b"ab", b""]).hex() == head + "00000002616200000000"
