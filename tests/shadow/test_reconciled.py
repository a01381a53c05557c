"""A node comes back with a queue and a database that do not agree: each message is delivered, and once."""

import errno
import pwd
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pyqmail.admin.running import serving
from pyqmail.formats.todo import Todo, parse_info_shadow, parse_todo
from pyqmail.shadow.present import copies_in
from pyqmail.spool.ended import read_ended
from pyqmail.spool.layout import read_layout
from tests.integration.mailhost import fresh_maildir
from tests.postgresql import PASSWORD, PostgreSQL
from tests.shadow.conftest import USER
from tests.shadow.node import Node, node
from tests.shadow.test_adoption import subjects
from tests.spool.queue_tree import Tree
from tests.waiting import wait_for

PLAIN = f"{USER}@example.test".encode()


@pytest.fixture(autouse=True)
def no_copies(database: PostgreSQL) -> None:
    """Nodes of other tests are dead by now, and have left some."""
    database.run("DELETE FROM shadow_message")


@pytest.fixture(scope="module")
def lossy(database: PostgreSQL) -> Iterator[Node]:
    """A node that loses files. Its lease is short: what was not taken in at once is tried again soon."""
    with node(database, "three.example.test", lease_s=30) as made:
        yield made


def hold(host: Node) -> None:
    """Whatever comes stays in the queue, until the node is started without control/concurrencylocal."""
    stop(host)
    host.lose_lease()  # or the start would not be waited for
    host.write("concurrencylocal", "0\n")
    host.start()


def stop(host: Node) -> None:
    """All of it, its last worker too."""
    host.stop()
    wait_for(lambda: not serving(str(host.home)), "the end of all")


def lose(home: Path, subject: bytes) -> None:
    """All files of that message are gone from the queue."""
    queue = home / "queue"
    (message,) = [path for path in queue.glob("mess/*/*") if b"Subject: " + subject in path.read_bytes()]
    gone = [path for path in queue.rglob(message.name) if path.is_file()]
    assert len(gone) >= 2
    for path in gone:
        path.unlink()


def start_anew(lost: Node) -> None:
    """As after a start of the machine."""
    lost.lose_lease()
    lost.database.run("UPDATE shadow_node SET machine = 'before'")
    lost.start()


def test_whatever_the_queue_or_the_database_has_lost_is_delivered_once(
    database: PostgreSQL, lossy: Node, maildir: Path
) -> None:
    large = b"Subject: lacked, large\n\n" + b"x" * 300_000
    messages = [b"Subject: %b\n\n" % word for word in (b"in both", b"without row", b"lacked")] + [large]
    hold(lossy)
    for message in messages:
        wait_for(lambda message=message: lossy.queue(message, PLAIN) == 0, "its acceptance")  # type: ignore[misc]
    assert len(lossy.copies()) == 4
    lossy.die()
    database.run("DELETE FROM shadow_message WHERE encode(message, 'escape') LIKE '%without row%'")
    lose(lossy.home, b"lacked\n")
    lose(lossy.home, b"lacked, large\n")
    (lossy.home / "control/concurrencylocal").unlink()
    start_anew(lossy)
    said = b"qmail-shadowd: 2 messages that only the database had are in the queue again"
    wait_for(lambda: said in lossy.log.read_bytes(), "the line")
    wait_for(lambda: lossy.queued() == 0 and not lossy.copies(), "the end of all")
    assert subjects(maildir) == sorted(message.partition(b"\n")[0] for message in messages)
    assert any(b"x" * 300_000 in path.read_bytes() for path in (maildir / "new").iterdir())


def test_an_admin_who_puts_a_queue_back_need_not_start_the_machine_anew(lossy: Node, maildir: Path) -> None:
    hold(lossy)
    for message in (b"Subject: kept\n\n", b"Subject: lacked\n\n"):
        wait_for(lambda message=message: lossy.queue(message, PLAIN) == 0, "its acceptance")  # type: ignore[misc]
    done = lossy.restore()
    assert (done.returncode, done.stdout) == (111, "")
    assert done.stderr.endswith(": stop qmail first\n")
    stop(lossy)
    lose(lossy.home, b"lacked\n")
    assert lossy.restore().stdout == "1 messages will be put into the queue when qmail runs\n"
    (lossy.home / "control/concurrencylocal").unlink()
    lossy.start()
    wait_for(lambda: lossy.queued() == 0 and not lossy.copies(), "the end of both")
    assert subjects(maildir) == [b"Subject: kept", b"Subject: lacked"]


def test_what_has_left_the_queue_before_an_orderly_end_is_not_delivered_again(database: PostgreSQL) -> None:
    maildir = fresh_maildir(USER)
    with node(database, "four.example.test") as lost, psycopg.connect(database.url, password=PASSWORD) as elsewhere:
        elsewhere.execute("LOCK TABLE shadow_done")  # rows are made, and cannot be removed
        assert lost.queue(b"Subject: once\n\n", PLAIN) == 0
        wait_for(lambda: lost.queued() == 0, "the delivery")
        lost.stop()
        layout = read_layout(str(lost.home))
        (identity,) = lost.copies()
        assert read_ended(layout) == [uuid.UUID(identity).hex.encode()]
        waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock'"  # a statement outlives who has sent it
        database.run(f"SELECT pg_terminate_backend(pid) {waiting}")
        wait_for(lambda: database.run(f"SELECT count(*) {waiting}") == ["0"], "the end of the removal")
        elsewhere.rollback()
        assert lost.copies() == [identity]
        start_anew(lost)
        wait_for(lambda: not lost.copies(), "the end of its copy")
        assert subjects(maildir) == [b"Subject: once"]


@pytest.mark.parametrize("place", ["todo", "info"])
def test_what_was_deleted_while_qmail_was_stopped_does_not_come_back(lossy: Node, maildir: Path, place: str) -> None:
    hold(lossy)
    path = Path(pwd.getpwnam(USER).pw_dir) / ".qmail-later"
    path.write_text("|exit 111\n")
    shutil.chown(path, USER, USER)
    wait_for(lambda: lossy.queue(b"Subject: deleted\n\n", f"{USER}-later@example.test".encode()) == 0, "acceptance")
    if place == "info":
        (lossy.home / "control/concurrencylocal").unlink()
        stop(lossy)
        lossy.start()
        wait_for(lambda: list(lossy.home.glob("queue/info/*/*")), "its first attempt")
    stop(lossy)
    (lossy.home / "control/concurrencylocal").unlink(missing_ok=True)
    (number,) = [found.name for found in lossy.home.glob(f"queue/{'todo' if place == 'todo' else 'info/*'}/*")]

    def order(*words: str) -> "subprocess.CompletedProcess[str]":
        program = lossy.home / "bin/qmail-q"
        return subprocess.run([program, *words], capture_output=True, text=True, env=lossy.environ(), timeout=60)

    assert order("delete", number).returncode == 0
    assert len(lossy.copies()) == 1
    path.write_text("./Maildir/\n")
    start_anew(lossy)
    wait_for(lambda: not lossy.copies(), "the end of its copy")
    assert b"only the database had" not in lossy.log.read_bytes().partition(b"while stopped: delete")[2]
    assert lossy.queued() == 0 and subjects(maildir) == []


def test_present_is_what_has_body_and_envelope_and_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(single_user=True)
    try:
        layout = read_layout(str(tree.home))
        names = {number: f"{number:032x}" for number in (24, 25, 26, 27, 28, 29)}
        for number in (24, 25, 26, 27):
            Path(layout.mess(number)).write_bytes(b"x")
        for number in (24, 28):  # 28 has no body
            Path(layout.todo(number)).write_bytes(b"u1\0p2\0p0 shadow %b\0Fa@x\0Tb@x\0" % names[number].encode())
        for number in (25, 29):
            Path(layout.info(number)).write_bytes(b"Fa@x\0p0 shadow %b\0" % names[number].encode())
        Path(layout.info(26)).write_bytes(b"Fa@x\0p0 shadow edited by hand\0")
        Path(layout.todo(27)).write_bytes(b"torn %b" % names[27].encode())
        Path(layout.ended).write_bytes(b"f" * 32 + b"\nno ID\n")
        todo: Todo = parse_todo(Path(layout.todo(24)).read_bytes())
        assert todo.shadow == names[24].encode() == b"%032x" % 24
        assert parse_info_shadow(Path(layout.info(25)).read_bytes()) == names[25].encode()
        assert copies_in(layout) == {names[24], names[25], "f" * 32}

        def none_left(*_: object) -> bytes:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr("pyqmail.shadow.present.files.read_file", none_left)
        with pytest.raises(OSError, match="Too many"):  # what cannot be read now is not lost
            copies_in(layout)
    finally:
        tree.close()
