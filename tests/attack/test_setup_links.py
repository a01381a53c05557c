"""A qmailq that arranges links in its directories, and root's qmail-setup: nothing outside of the tree is touched."""

import os
import pwd
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyqmail.admin import placing, tree
from pyqmail.admin.installing import put
from pyqmail.admin.target import Owners, SetupError, Target
from pyqmail.admin.tree import Entry, Kind
from pyqmail.programs import qmail_tcpok
from tests.public_directory import public_directory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: whose hands are tried")
QMAILQ, QMAILS, QMAILR = 60001, 60002, 60003
OWNERS = Owners({"root": 0, "qmailq": QMAILQ, "qmails": QMAILS, "qmailr": QMAILR}, 60009)
FACTS = tree.directory("queue/pyqmail/facts", "qmailq", 0o750)
SENDMUTEX = Entry("queue/lock/sendmutex", Kind.FILE, "qmails", 0o600)
TRIGGER = Entry("queue/lock/trigger", Kind.FIFO, "qmails", 0o622)


@dataclass
class Place:
    """A tree whose queue is qmailq's, and a directory and a file of root's beside it."""

    target: Target
    victim: Path

    @property
    def queue(self) -> Path:
        return self.target.root / "queue"

    def put(self, entry: Entry) -> None:
        put(self.target, OWNERS, entry)

    def state(self) -> list[tuple[str, int, int, int, bytes]]:
        found = []
        for path in (self.victim, *sorted(self.victim.rglob("*"))):
            status = path.stat()
            data = path.read_bytes() if path.is_file() else b""
            found.append((path.name, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), data))
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    with public_directory() as base:
        (base / "qmail").mkdir(mode=0o755)
        (base / "victim" / "facts").mkdir(parents=True)
        (base / "victim" / "secret").write_text("root's\n")
        (base / "victim" / "secret").chmod(0o600)
        made = Place(Target(str(base / "qmail"), base / "qmail", "python3", False, True), base / "victim")
        for name in ("queue", "queue/lock", "queue/pyqmail"):
            owner = "qmails" if name.endswith("pyqmail") else "qmailq"
            made.put(tree.directory(name, owner, 0o710))
        yield made


def link_folder(place: Place) -> None:
    (place.queue / "pyqmail").rmdir()
    (place.queue / "pyqmail").symlink_to(place.victim)


def link_file(place: Place) -> None:
    (place.queue / "lock/sendmutex").symlink_to(place.victim / "secret")


def second_name(place: Place) -> None:
    os.link(place.victim / "secret", place.queue / "lock/sendmutex")


def dangling(place: Place) -> None:
    (place.queue / "lock/sendmutex").symlink_to(place.victim / "new")


def link_fifo(place: Place) -> None:
    (place.queue / "lock/trigger").symlink_to(place.victim / "secret")


def fifo_for_file(place: Place) -> None:
    os.mkfifo(place.queue / "lock/sendmutex")


def others_file(place: Place) -> None:
    (place.queue / "lock/sendmutex").touch()
    os.chown(place.queue / "lock/sendmutex", 60777, 60777)


ATTACKS: list[tuple[Callable[[Place], None], Entry]] = [
    (link_folder, FACTS),
    (link_file, SENDMUTEX),
    (second_name, SENDMUTEX),
    (dangling, SENDMUTEX),
    (link_fifo, TRIGGER),
    (fifo_for_file, SENDMUTEX),
    (others_file, SENDMUTEX),
]


@pytest.mark.parametrize(("arrange", "entry"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_what_qmailq_arranged_is_in_the_way_and_nothing_else_changes(
    place: Place, arrange: Callable[[Place], None], entry: Entry
) -> None:
    arrange(place)
    before = place.state()
    with pytest.raises(SetupError, match="is in the way"):
        place.put(entry)
    assert place.state() == before


def test_what_nobody_arranged_is_made_and_mended(place: Place) -> None:
    for _ in range(2):
        for entry, uid in ((FACTS, QMAILQ), (SENDMUTEX, QMAILS), (TRIGGER, QMAILS)):
            place.put(entry)
            status = (place.target.root / entry.path).lstat()
            assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (uid, 60009, entry.mode)
        (place.target.root / SENDMUTEX.path).chmod(0o644)
        os.chown(place.target.root / FACTS.path, 0, 0)


def test_a_link_that_only_root_could_make_is_followed(place: Place) -> None:
    """As where the queue lies on another disk."""
    place.queue.rename(place.target.root.parent / "spool")
    place.queue.symlink_to(place.target.root.parent / "spool")
    place.put(SENDMUTEX)
    assert (place.target.root.parent / "spool/lock/sendmutex").lstat().st_uid == QMAILS


def test_the_table_of_time_outs_is_not_written_through_a_link(place: Place) -> None:
    for arrange in (os.link, os.symlink):
        arrange(place.victim / "secret", place.queue / "lock/tcpto")
        with pytest.raises((SetupError, OSError)):
            placing.fill_table(place.target.root, "queue/lock/tcpto")
        (place.queue / "lock/tcpto").unlink()
    assert (place.victim / "secret").read_text() == "root's\n"


def test_qmail_tcpok_writes_as_the_tables_owner(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    control = place.target.root / "control"
    control.mkdir()
    names = ("alias", "qmaild", "qmaill", "root", "qmailp", "qmailq", "qmailr", "qmails")
    ids = [0 if name == "root" else pwd.getpwnam(name).pw_uid for name in names]
    (control / "conf-users").write_text("".join(f"{uid}\n" for uid in ids))
    (control / "conf-groups").write_text("60009\n60010\n")
    for path in (place.queue, place.queue / "lock"):
        path.chmod(0o755)
        os.chown(path, ids[5], 60009)
    monkeypatch.chdir("/")
    environ = {b"QMAIL_HOME": os.fsencode(place.target.root)}
    for arrange in (os.link, os.symlink):
        arrange(place.victim / "secret", place.queue / "lock/tcpto")
        assert qmail_tcpok.main([b"qmail-tcpok"], environ) == 111
        (place.queue / "lock/tcpto").unlink()
    assert (place.victim / "secret").read_text() == "root's\n"
    (place.queue / "lock/tcpto").write_bytes(b"x" * 1024)
    os.chown(place.queue / "lock/tcpto", ids[6], 60009)
    assert qmail_tcpok.main([b"qmail-tcpok"], environ) == 0
    assert (place.queue / "lock/tcpto").read_bytes() == bytes(1024)
