"""Leases in the database: one owner for each name and queue, whatever comes back or is done twice."""

import os
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from pyqmail.shadow import adoption
from pyqmail.shadow.database import Away
from pyqmail.shadow.nodes import Adopted, Nodes, Taken
from pyqmail.shadow.store import Copy, Fenced, Mark, Node, Refused, Store
from tests.postgresql import PASSWORD, PostgreSQL
from tests.waiting import wait_for

LEASE_S = 300.0


@pytest.fixture
def nodes(database: PostgreSQL) -> Iterator[Nodes]:
    made = Nodes(database.url, PASSWORD)
    yield made
    made.close()
    database.run("DELETE FROM shadow_message")  # no node of another test is to take over what these had


@pytest.fixture
def store(database: PostgreSQL) -> Iterator[Store]:
    made = Store(database.url, PASSWORD)
    yield made
    made.close()


def register(
    nodes: Nodes, machine: str = "here", queue: str = "", name: str = "", present: Collection[str] = ()
) -> Node:
    queue = queue or str(uuid.uuid4())
    return nodes.register(queue, name or queue + ".test", machine, LEASE_S, present)


def end(database: PostgreSQL, node: Node) -> None:
    """The time of its lease is over."""
    database.run(f"UPDATE shadow_node SET until = now() WHERE queue = '{node.queue}'")


def copy(store: Store, node: Node, path: Path) -> str:
    """A message of that node with two recipients."""
    path.write_bytes(b"u1\0p2\0Fann@x\0Ta@x\0Tb@x\0")
    identity = str(uuid.uuid4())
    made = Copy(identity, b"", os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY))
    try:
        store.add(node, [made])
    finally:
        made.close()
    return identity


def test_a_name_and_a_queue_have_one_owner_until_the_lease_is_over(database: PostgreSQL, nodes: Nodes) -> None:
    first = register(nodes, name="odd ' name\"; --")
    with pytest.raises(Taken, match="one of both needs another control/me"):
        register(nodes, name="odd ' name\"; --")
    with pytest.raises(Taken, match="another machine"):
        register(nodes, "there", first.queue)
    assert register(nodes, "here", first.queue, "renamed.test") == first  # started again
    end(database, first)
    assert register(nodes, "there", first.queue, "renamed.test") == first
    with pytest.raises(Fenced):
        nodes.renew(first, "here", LEASE_S)
    nodes.renew(first, "there", LEASE_S)


def test_an_empty_volume_under_an_old_name_is_another_owner(database: PostgreSQL, nodes: Nodes) -> None:
    old = register(nodes, name="again.test")
    end(database, old)
    new = register(nodes, name="again.test")
    assert new.queue != old.queue and nodes.own(new.queue) == new and nodes.own(old.queue) is None


def test_adoption_is_done_once_and_fences_who_comes_back(
    database: PostgreSQL, nodes: Nodes, store: Store, tmp_path: Path
) -> None:
    dead, heir = register(nodes), register(nodes)
    identity = copy(store, dead, tmp_path / "message")
    store.mark(dead, [Mark(identity, "local:0", b"a@x")] * 2)
    assert nodes.adopt(heir, [dead.queue]) == []
    end(database, dead)
    assert nodes.adopt(heir, ["somebody.else"]) == []
    assert [count for _, count in nodes.adopt(heir, [dead.queue])] == [1]
    assert nodes.adopt(heir, [dead.queue]) == [(dead.queue, 0)] and nodes.adopt(heir, []) == []
    with pytest.raises(Fenced):
        copy(store, dead, tmp_path / "late")
    with pytest.raises(Fenced):
        nodes.renew(dead, "here", LEASE_S)
    back = register(nodes, queue=dead.queue)
    assert back.epoch > dead.epoch and nodes.taken(back) == {uuid.UUID(identity).hex}
    store.remove(back, [identity])  # it has given it up: that is not its row any more
    assert nodes.taken(back) == set()
    seen: list[Adopted] = []
    assert nodes.take_in(heir, lambda adopted: bool(seen.append(adopted))) is False  # refused: it stays
    assert nodes.take_in(heir, lambda adopted: not seen.append(adopted)) is True  # type: ignore[func-returns-value]
    assert nodes.take_in(heir, lambda adopted: True) is None
    assert [adopted.done for adopted in seen] == [[b"a@x"]] * 2


def taken_in(nodes: Nodes, node: Node) -> list[str]:
    """What the queue of that node is offered, and takes."""
    seen: list[str] = []
    while nodes.take_in(node, lambda adopted: not seen.append(adopted.identity)):  # type: ignore[func-returns-value]
        pass
    return seen


def test_who_was_removed_by_hand_is_adopted_after_a_lease_from_being_made_known_again(
    database: PostgreSQL, nodes: Nodes, store: Store, tmp_path: Path
) -> None:
    lost, heir = register(nodes), register(nodes)
    identity = copy(store, lost, tmp_path / "message")
    database.run(f"DELETE FROM shadow_node WHERE queue = '{lost.queue}'")
    assert nodes.adopt(heir, []) == [] and nodes.adopt(heir, [lost.queue]) == []
    assert nodes.unknown() == [(lost.queue, 1)]
    for _ in range(2):
        nodes.know_again(lost.queue, LEASE_S)
    assert nodes.unknown() == [] and nodes.adopt(heir, [lost.queue]) == []  # it may live: its lease is not over
    with pytest.raises(Fenced):
        copy(store, lost, tmp_path / "late")
    with pytest.raises(Fenced):
        nodes.renew(lost, "here", LEASE_S)
    end(database, lost)
    assert nodes.adopt(heir, []) == [(lost.queue, 1)] and nodes.adopt(heir, []) == []
    back = register(nodes, queue=lost.queue)
    assert back.epoch > lost.epoch + 1 and nodes.taken(back) == {uuid.UUID(identity).hex}
    store.remove(back, [identity])  # it has given it up
    assert taken_in(nodes, heir) == [identity] and taken_in(nodes, back) == [] and nodes.taken(back) == set()


@pytest.mark.parametrize("over", [False, True], ids=["while it has a lease", "after that"])
def test_who_was_made_known_again_and_lives_goes_on_with_what_it_has(
    database: PostgreSQL, nodes: Nodes, store: Store, tmp_path: Path, over: bool
) -> None:
    node, other = register(nodes), register(nodes)
    copy(store, node, tmp_path / "message")
    database.run(f"DELETE FROM shadow_node WHERE queue = '{node.queue}'")
    nodes.know_again(node.queue, LEASE_S)
    if over:
        end(database, node)
    name = node.queue + ".alive"
    back = register(nodes, queue=node.queue, name=name)
    assert taken_in(nodes, back) == []  # what it has in its queue it has told at its start, and not again
    assert nodes.adopt(other, [node.queue]) == [] and nodes.taken(back) == set()
    nodes.renew(back, "here", LEASE_S)
    copy(store, back, tmp_path / "another")
    assert database.run(f"SELECT name FROM shadow_node WHERE queue = '{node.queue}'") == [name]


def test_what_a_queue_lacks_when_its_machine_is_started_anew_is_offered_to_it_once(
    database: PostgreSQL, nodes: Nodes, store: Store, tmp_path: Path
) -> None:
    node = register(nodes)
    here, lost = (copy(store, node, tmp_path / name) for name in ("here", "lost"))
    present = {uuid.UUID(here).hex}
    assert taken_in(nodes, register(nodes, queue=node.queue, present=present)) == []  # the same start of the machine
    end(database, node)
    assert taken_in(nodes, register(nodes, "anew", node.queue, present=present)) == [lost]
    assert taken_in(nodes, register(nodes, "anew", node.queue)) == []
    end(database, node)
    assert taken_in(nodes, register(nodes, "again", node.queue, present=present)) == []


def test_a_row_without_an_envelope_stays_and_keeps_no_other_from_the_queue(
    database: PostgreSQL, nodes: Nodes, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = register(nodes)
    torn, whole = (copy(store, node, tmp_path / name) for name in ("torn", "whole"))
    database.run(f"UPDATE shadow_message SET envelope = 'edited by hand' WHERE id = '{torn}'")
    end(database, node)
    register(nodes, "anew", node.queue)
    seen: list[str] = []
    monkeypatch.setattr(adoption, "_inject", lambda _home, adopted, _todo: seen.append(adopted.identity))
    for _ in range(2):
        with pytest.raises(Refused, match=f"1 rows are not whole, the first is {torn}"):
            adoption.take_in_all(nodes, node, "/nowhere")
    assert seen == [whole]
    assert database.run(f"SELECT id FROM shadow_message WHERE owner = '{node.queue}'") == [torn]


def test_a_connection_that_was_lost_is_made_again(database: PostgreSQL, nodes: Nodes) -> None:
    node = register(nodes)
    ours = "FROM pg_stat_activity WHERE application_name = 'qmail-shadowd'"
    assert database.run(f"SELECT pg_terminate_backend(pid) {ours}")
    wait_for(lambda: database.run(f"SELECT count(*) {ours}") == ["0"], "the end of the connections")
    nodes.renew(node, "here", LEASE_S)  # nobody hears of it


def test_who_cannot_log_in_is_away(database: PostgreSQL) -> None:
    with pytest.raises(Away, match="password"):
        Nodes(database.url, "another").own(str(uuid.uuid4()))
