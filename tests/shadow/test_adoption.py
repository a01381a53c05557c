"""A node dies, and another one takes over what it had accepted: once, and without what had been delivered."""

import os
import subprocess
import threading
import uuid
from pathlib import Path

import pytest

from pyqmail.exits import QueueExit
from pyqmail.formats.facts import (
    ACCEPTED_MAX,
    FACTS_MAX,
    Facts,
    RecipientFacts,
    Transfer,
    format_facts,
    parse_facts,
)
from pyqmail.shadow.adoption import facts_of_rest, remaining
from pyqmail.spool import facts
from pyqmail.spool.layout import read_layout
from tests.integration.mailhost import hold_deliveries
from tests.postgresql import PostgreSQL
from tests.shadow.conftest import USER
from tests.shadow.node import Node, node
from tests.waiting import wait_for

HELD, PLAIN = (f"{USER}{extension}@example.test".encode() for extension in ("-hold", ""))
LARGE = os.urandom(300_000).hex().encode()


def subjects(maildir: Path) -> list[bytes]:
    """Of what was delivered."""
    lines = [line for path in (maildir / "new").iterdir() for line in path.read_bytes().splitlines()]
    return sorted(line for line in lines if line.startswith(b"Subject:"))


def test_what_a_dead_node_had_another_one_delivers_once_and_the_dead_one_never_again(
    database: PostgreSQL, host: Node, maildir: Path
) -> None:
    _, started = hold_deliveries(USER)
    with node(database, "two.example.test") as lost:
        assert lost.queue(b"Subject: both\n\n" + LARGE, PLAIN, HELD) == 0
        started.read_text()
        wait_for(
            lambda: database.run("SELECT encode(recipient, 'escape') FROM shadow_done") == [PLAIN.decode()], "mark"
        )
        assert subjects(maildir) == [b"Subject: both"]
        assert host.adopt() == ["0 messages put into the queue"]  # its lease is not over
        lost.die()
        lost.lose_lease()
        gate, started = hold_deliveries(USER)  # others: what the dead node ran may still wait at the first ones
        identity = uuid.UUID(database.run("SELECT id FROM shadow_message")[0]).hex
        said: list[list[str]] = []
        both = [threading.Thread(target=lambda: said.append(host.adopt())) for _ in range(2)]
        for thread in both:
            thread.start()
        started.read_text()  # the delivery to the recipient that was left
        gate.write_text("")
        for thread in both:
            thread.join()
        adopted = [line for lines in said for line in lines if "adopted" in line]
        assert adopted == ["two.example.test: 1 messages adopted"]
        noted = [path.name for path in host.home.glob("queue/pyqmail/transfers/**/*")]
        assert any(identity in name for name in noted), noted  # offered again it would not be taken again
        assert sum(int(lines[-1].split()[0]) for lines in said) == 1
        wait_for(lambda: not host.copies(), "the end of all copies")
        assert subjects(maildir) == [b"Subject: both"] * 2  # one for each recipient
        assert all(LARGE in path.read_bytes() for path in (maildir / "new").iterdir())
        assert lost.queued() == 1
        lost.start()
        wait_for(lambda: lost.queued() == 0, "the removal of what was adopted")
        assert b"another node has adopted msg" in lost.log.read_bytes()
        wait_for(lambda: database.run("SELECT count(*) FROM shadow_taken") == ["0"], "its word that it has given up")
        assert lost.queue(b"Subject: new\n\n", PLAIN) == 0
        wait_for(lambda: subjects(maildir) == [b"Subject: both"] * 2 + [b"Subject: new"], "new mail as ever")
        wait_for(lambda: not host.copies(), "the end of its copy")


def test_each_mark_takes_one_recipient_away() -> None:
    assert remaining([b"a", b"b", b"a", b"c"], [b"a", b"x"]) == [b"b", b"a", b"c"]


def test_facts_are_kept_for_the_recipients_that_are_left() -> None:
    told = tuple(RecipientFacts(address, frozenset([b"NEVER"])) for address in (b"a@x", b"b@x"))
    data = format_facts(Facts(ret=b"HDRS", recipients=told), b"ann@x")
    transfer = Transfer(b"0" * 32, 12345)
    rest = parse_facts(facts_of_rest(data, b"ann@x", [b"b@x", b"c@x"], transfer))
    assert (rest.ret, rest.recipients, rest.transfer) == (b"HDRS", told[1:], transfer)
    for nothing in (b"no facts", b""):
        assert parse_facts(facts_of_rest(nothing, b"ann@x", [b"b@x"], transfer)) == Facts(transfer=transfer)


@pytest.mark.parametrize(
    ("times", "orcpt", "kept"),
    [
        pytest.param(50, b"rfc822;" + b"x" * 2000, frozenset([b"NEVER"]), id="without ORCPT"),
        pytest.param(2200, b"", frozenset(), id="without any of recipients"),
    ],
)
def test_the_transfer_is_kept_where_the_rest_is_too_long(times: int, orcpt: bytes, kept: frozenset[bytes]) -> None:
    """An address that the envelope has many times: what is said of one is said of all."""
    same = [b"a@x"] * times
    told = (*map(RecipientFacts, same), RecipientFacts(b"a@x", frozenset([b"NEVER"]), orcpt))
    data = format_facts(Facts(requiretls=True, recipients=told), b"ann@x")
    transfer = Transfer(b"0" * 32, 12345)
    made = parse_facts(facts_of_rest(data, b"ann@x", same, transfer))
    assert made.transfer == transfer and made.requiretls
    assert {(one.notify, one.orcpt) for one in made.recipients} == ({(kept, b"")} if kept else set())


def long_facts(size: int) -> bytes:
    """Facts of so many bytes of a message to HELD."""

    def made(length: int) -> bytes:
        said = RecipientFacts(HELD, frozenset([b"NEVER"]), b"rfc822;" + b"x" * length)
        return format_facts(Facts(ret=b"HDRS", recipients=(said,)), b"ann@example.test")

    data = made(size - len(made(10_000)) + 10_000)
    assert len(data) == size
    return data


@pytest.mark.parametrize("older", [False, True], ids=["accepted as they are", "accepted by an older build"])
def test_facts_of_the_greatest_length_come_with_an_adopted_message(
    database: PostgreSQL, host: Node, maildir: Path, older: bool
) -> None:
    _, started = hold_deliveries(USER)
    data = long_facts(ACCEPTED_MAX)
    with node(database, "facts.example.test") as lost:
        assert lost.queue(b"Subject: facts\n\n", HELD, facts=data) == 0
        started.read_text()
        lost.die()
        lost.lose_lease()
    identity = uuid.UUID(host.copies()[-1])
    assert database.run(f"SELECT length(facts) FROM shadow_message WHERE id = '{identity}'") == [str(ACCEPTED_MAX)]
    if older:
        data = long_facts(FACTS_MAX)
        database.run(f"UPDATE shadow_message SET facts = '\\x{data.hex()}' WHERE id = '{identity}'")
    gate, started = hold_deliveries(USER)  # others: what the dead node ran may still wait at the first ones
    host.adopt("facts.example.test")
    started.read_text()
    (message,) = [path for path in (host.home / "queue/mess").rglob("*") if path.is_file()]
    known = facts.read(read_layout(str(host.home)), int(message.name))
    assert known.transfer is not None and known.transfer.name == identity.hex.encode()
    (told,) = known.recipients
    said = parse_facts(data).recipients[0]
    assert (known.ret, told.notify) == (b"HDRS", said.notify)
    assert told.orcpt == (b"" if older else said.orcpt)
    gate.write_text("")
    wait_for(lambda: not host.copies(), "the end of its copy")
    assert subjects(maildir) == [b"Subject: facts"]


def test_a_message_that_lacks_a_part_stays_where_it_is(database: PostgreSQL, host: Node, maildir: Path) -> None:
    _, started = hold_deliveries(USER)
    with node(database, "torn.example.test") as lost:
        assert lost.queue(b"Subject: torn\n\n" + LARGE, HELD) == 0
        started.read_text()
        lost.die()
        lost.lose_lease()
    torn = host.copies()[-1]
    database.run(f"DELETE FROM shadow_part WHERE id = '{torn}'")
    done = host.try_to_adopt("torn.example.test")
    assert done.returncode == 111 and "rows are not whole, the first is " + torn in done.stderr
    assert torn in host.copies() and not subjects(maildir)
    database.run(f"DELETE FROM shadow_message WHERE id = '{torn}'")


def test_messages_of_a_node_whose_row_was_removed_by_hand_are_told_of_and_adopted_after_a_lease(
    database: PostgreSQL, host: Node, maildir: Path
) -> None:
    _, started = hold_deliveries(USER)
    with node(database, "removed.example.test") as lost:
        assert lost.queue(b"Subject: removed\n\n", HELD) == 0
        started.read_text()
        lost.die()
        queue = (lost.home / "queue/pyqmail/id").read_text().strip()
        database.run("DELETE FROM shadow_node WHERE name = 'removed.example.test'")
        done = host.try_to_adopt()
        assert (done.returncode, done.stdout) == (111, "0 messages put into the queue\n")
        said = f"1 messages are of owners without a row in shadow_node: qmail-shadowd --adopt {queue}\n"
        assert done.stderr == f"qmail-shadowd: fatal: {said}"
        done = host.try_to_adopt(queue)
        assert done.returncode == 111 and done.stderr.endswith(" adopt it again in 360 seconds\n")
        done = host.try_to_adopt(queue)
        assert done.returncode == 111 and f"no node without a lease is called {queue}" in done.stderr
        assert host.adopt() == ["0 messages put into the queue"]
        database.run(f"UPDATE shadow_node SET until = now() WHERE queue = '{queue}'")
        gate, started = hold_deliveries(USER)  # others: what the dead node ran may still wait at the first ones
        assert host.adopt(queue) == [f"{queue}: 1 messages adopted", "1 messages put into the queue"]
        started.read_text()
        gate.write_text("")
        wait_for(lambda: not host.copies(), "the end of its copy")
        assert subjects(maildir) == [b"Subject: removed"]
        lost.start()
        wait_for(lambda: lost.queued() == 0, "the removal of what was adopted")
        assert subjects(maildir) == [b"Subject: removed"]


def test_a_node_that_is_alive_or_unknown_is_said_not_to_be_adopted(host: Node) -> None:
    done = host.try_to_adopt("nobody.example.test")
    assert (done.returncode, done.stdout) == (111, "0 messages put into the queue\n")
    assert "no node without a lease is called nobody.example.test" in done.stderr


def test_an_envelope_that_is_too_long_keeps_no_other_from_being_copied(
    host: Node, maildir: Path, tmp_path: Path
) -> None:
    envelope = tmp_path / "envelope"
    recipients = b"".join(b"T%d-%b@example.test\0" % (number, b"x" * 980) for number in range(17_000))
    envelope.write_bytes(b"Fann@example.test\0" + recipients + b"\0")
    with envelope.open("rb") as ends:
        program = host.home / "bin/qmail-queue"
        status = subprocess.run([program], input=LARGE, stdout=ends, env=host.environ()).returncode
    assert status == QueueExit.NEXT_HOP_TEMPORARY
    assert host.queue(b"Subject: after it\n\n" + LARGE, PLAIN) == 0
    wait_for(lambda: subjects(maildir) == [b"Subject: after it"], "the message")
