"""What becomes of mail where no copy can be made: by control/shadow, and where two nodes have one name."""

import os
import signal
from pathlib import Path

import pytest

from tests.integration.mailhost import fresh_maildir
from tests.postgresql import PostgreSQL
from tests.public_directory import public_directory
from tests.shadow.conftest import USER
from tests.shadow.node import Node, node
from tests.shadow.test_adoption import subjects
from tests.waiting import wait_for

PLAIN = f"{USER}@example.test".encode()
REFUSED = 71  # for now: qmail-smtpd says 451


@pytest.fixture(autouse=True)
def no_copies(database: PostgreSQL) -> None:
    """Nodes of other tests are dead by now, and have left some."""
    database.run("DELETE FROM shadow_message")


def test_with_prefer_mail_flows_without_the_database_and_a_line_says_what_has_no_copy(
    database: PostgreSQL, maildir: Path
) -> None:
    with node(database, "prefer.example.test", "prefer") as made:
        assert made.queue(b"Subject: copied\n\n", PLAIN) == 0
        wait_for(lambda: subjects(maildir) == [b"Subject: copied"] and not made.copies(), "its delivery and its end")
        database.stop()
        try:
            assert made.queue(b"Subject: alone\n\n", PLAIN) == 0
            wait_for(lambda: b"Subject: alone" in subjects(maildir), "its delivery")
            wait_for(lambda: b"qmail-shadowd: no copy of 1 messages: " in made.log.read_bytes(), "the line")
            os.kill(made.shadowd(), signal.SIGKILL)  # and without a qmail-shadowd, or one that has no lease
            assert made.queue(b"Subject: still\n\n", PLAIN) == 0
            wait_for(lambda: b"Subject: still" in subjects(maildir), "its delivery")
        finally:
            database.start()
        wait_for(made.has_lease, "its lease")
        assert made.copies() == [] and len(subjects(maildir)) == 3


def test_with_prefer_and_shadowmax_bytes_stored_mail_flows_without_a_copy(database: PostgreSQL, maildir: Path) -> None:
    with node(database, "full.example.test", "prefer", shadowmax="10\n") as made:
        assert made.queue(b"Subject: more than that\n\n", PLAIN) == 0
        wait_for(lambda: subjects(maildir) == [b"Subject: more than that"], "its delivery")
        said = b"qmail-shadowd: no more is copied: control/shadowmax is 10 bytes"
        wait_for(lambda: said in made.log.read_bytes(), "the line")


def test_the_second_node_of_a_name_takes_nothing_and_says_so_until_it_has_another(database: PostgreSQL) -> None:
    maildir = fresh_maildir(USER)
    with node(database, "twin.example.test") as first, public_directory() as base:
        second = Node(base / "qmail", database, first.home.joinpath("control/me").read_text().strip())
        try:
            second.log.touch()
            second.start_delivery()
            said = b"is called twin.example.test: one of both needs another control/me"
            wait_for(lambda: said in second.log.read_bytes(), "the line")
            assert second.queue(b"Subject: no\n\n", PLAIN) == REFUSED and second.queued() == 0
            done = second.try_to_adopt()
            assert done.returncode == 111 and "this node has no lease" in done.stderr
            assert first.queue(b"Subject: yes\n\n", PLAIN) == 0
            wait_for(lambda: subjects(maildir) == [b"Subject: yes"], "its delivery")
            second.stop()
            second.write("me", "other.example.test\n")
            second.start()
            assert second.queue(b"Subject: other\n\n", PLAIN) == 0
            wait_for(lambda: subjects(maildir) == [b"Subject: other", b"Subject: yes"], "its delivery")
        finally:
            second.stop()
