"""Nodes whose clocks differ by half an hour: a lease is told by the database's, and no node asks its own."""

import glob
from pathlib import Path

from tests.postgresql import PostgreSQL
from tests.shadow.conftest import USER
from tests.shadow.node import Node, node
from tests.shadow.test_adoption import subjects
from tests.waiting import wait_for

RECIPIENT = f"{USER}@example.test".encode()


class Ahead(Node):
    """Its clock is a quarter of an hour too fast."""

    offset = "+15m"

    def environ(self) -> dict[str, str]:
        """That of its programs, which all have that clock. The monotonic one is as wrong, or Python could not sleep."""
        (library,) = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
        return super().environ() | {"LD_PRELOAD": library, "FAKETIME": self.offset}


class Behind(Ahead):
    """Its clock is as much too slow."""

    offset = "-15m"


def test_no_lease_is_longer_or_shorter_for_a_clock_that_is_wrong(database: PostgreSQL, maildir: Path) -> None:
    held = "0\n"
    with (
        node(database, "ahead.example.test", lease_s=30, kind=Ahead, concurrencylocal=held) as ahead,
        node(database, "behind.example.test", lease_s=30, kind=Behind) as behind,
    ):
        assert ahead.queue(b"Subject: once\n\n", RECIPIENT) == 0
        ends = "SELECT name, until FROM shadow_node WHERE name IN ('ahead.example.test', 'behind.example.test')"
        before = database.run(ends)
        wait_for(lambda: not set(before) & set(database.run(ends)), "renewals by both", 60)
        assert ahead.has_lease() and behind.has_lease()
        assert behind.adopt() == ["0 messages put into the queue"]
        ahead.die()
        ahead.lose_lease()
        assert behind.adopt() == ["ahead.example.test: 1 messages adopted", "1 messages put into the queue"]
        wait_for(lambda: subjects(maildir) == [b"Subject: once"], "the delivery")
        wait_for(lambda: behind.queued() == 0, "an empty queue")
        ahead.write("concurrencylocal", "10\n")
        ahead.start()
        wait_for(lambda: ahead.queued() == 0, "the removal of what was adopted")
        assert ahead.queue(b"Subject: new\n\n", RECIPIENT) == 0
        wait_for(lambda: subjects(maildir) == [b"Subject: new", b"Subject: once"], "new mail as ever")
        log = ahead.log.read_text() + behind.log.read_text()
        assert "qmail-shadowd ended" not in log and "not renewed" not in log, log
