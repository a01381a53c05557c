"""How much is copied, in one transaction and in all: messages with their envelopes, less as soon as some are gone."""

import os
import uuid
from pathlib import Path

from pyqmail.shadow import writer
from pyqmail.shadow.nodes import Nodes
from pyqmail.shadow.store import Copy, SmallCopy, Store
from pyqmail.shadow.writer import Gathered
from tests.integration.mailhost import hold_deliveries
from tests.postgresql import PASSWORD, PostgreSQL
from tests.shadow.conftest import USER
from tests.shadow.node import node
from tests.waiting import wait_for

HELD, PLAIN = (f"{USER}{extension}@example.test".encode() for extension in ("-hold", ""))
LARGE = os.urandom(20_000).hex().encode()
REFUSED = 71  # for now: qmail-smtpd says 451


def opened(path: Path, size: int) -> int:
    """A file of so many bytes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.truncate(fd, size)
    return fd


def copy(directory: Path, message: int, envelope: int) -> Copy:
    identity = uuid.uuid4().hex
    fds = [opened(directory / f"{identity}{part}", size) for part, size in (("m", message), ("e", envelope))]
    return Copy(identity, b"facts", *fds)


def test_the_envelopes_of_a_transaction_are_counted_with_its_messages(tmp_path: Path) -> None:
    third = writer.BYTES_MAX // 3
    copies = [copy(tmp_path, 10, third) for _ in range(4)] + [copy(tmp_path, writer.BYTES_MAX, 10)]
    gathered = Gathered()
    for one in copies:
        gathered.put(one)
    taken = [gathered.take() for _ in range(3)]
    for one in copies:
        one.close()
    assert taken == [copies[:2], copies[2:4], copies[4:]]


def test_what_is_stored_is_told_with_envelopes_and_facts_and_so_is_what_its_removal_frees(
    database: PostgreSQL, tmp_path: Path
) -> None:
    nodes, store = Nodes(database.url, PASSWORD), Store(database.url, PASSWORD)
    queue = str(uuid.uuid4())
    owner = nodes.register(queue, queue + ".test", "here", 300.0, ())
    large, plain = copy(tmp_path, 300_000, 200_000), copy(tmp_path, 10, 20)
    small = SmallCopy(uuid.uuid4().hex, b"facts", b"envelope", b"message")
    try:
        assert store.stored(owner) == 0
        for one in (large, plain):
            store.add(owner, [one])
            one.close()
        assert (large.stored, plain.stored, small.stored) == (500_005, 35, 20)
        assert store.stored(owner) == large.stored + plain.stored
        assert store.remove(owner, [large.identity, small.identity]) == large.stored  # the small one was never there
        assert store.stored(owner) == plain.stored
        assert store.remove(owner, [plain.identity]) == plain.stored and store.remove(owner, [plain.identity]) == 0
    finally:
        nodes.close()
        store.close()
        database.run(f"DELETE FROM shadow_node WHERE queue = '{queue}'")


def test_shadowmax_counts_envelopes_and_has_room_again_as_soon_as_a_copy_is_gone(
    database: PostgreSQL, maildir: Path
) -> None:
    gate, started = hold_deliveries(USER)
    with node(database, "room.example.test", shadowmax="50000\n") as made:
        assert made.queue(b"Subject: first\n\n", PLAIN) == 0
        wait_for(lambda: not made.copies(), "its end, and with it a look how much is stored")
        many = [b"%d-%b@example.test" % (number, b"x" * 980) for number in range(60)]
        assert made.queue(b"x\n", *many) == REFUSED
        assert made.queue(b"Subject: held\n\n" + LARGE, HELD) == 0
        started.read_text()
        assert made.queue(b"Subject: second\n\n" + LARGE, PLAIN) == REFUSED
        gate.write_text("")
        wait_for(lambda: not made.copies(), "the end of the copy")
        again = b"Subject: again\n\n" + LARGE
        wait_for(lambda: made.queue(again, PLAIN) == 0, "room, before the next look", writer.SIZE_S / 3)
        wait_for(lambda: not made.copies(), "the end of the copy")
