"""S1 to S4 in a real directory: the order of durable steps, and what each failure leaves."""

import errno
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.exits import QueueExit
from pyqmail.formats.received import format_received, how_invoked
from pyqmail.policy.accounts import Accounts
from pyqmail.spool.draft import Draft, QueueFailure
from pyqmail.spool.enqueue import Spool, enqueue
from pyqmail.spool.layout import Layout
from pyqmail.system import files
from tests.spool.queue_tree import Tree, commit

ACCOUNTS = Accounts([1, 2, 3, 0, 4, 5, 6, 7], [8, 9], b"alias")
ENVELOPE = b"Fann@a\0Tbob@b\0Tcid@c\0\0"


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=True)
    yield made
    made.close()


@pytest.fixture(params=["unnamed", "classic"])
def spool(tree: Tree, request: pytest.FixtureRequest) -> Spool:
    made = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    made.drafts.classic = request.param == "classic"
    return made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of durable steps, in order, as the file layer sees them."""
    seen: list[str] = []

    def record(name: str) -> None:
        real = getattr(files, name)

        def wrapped(*arguments: Any) -> Any:
            seen.append(name + "".join(f" {'/'.join(a.split('/queue/')[1:])}" for a in arguments if type(a) is str))
            return real(*arguments)

        monkeypatch.setattr(files, name, wrapped)

    for name in ("sync", "sync_directory", "link", "link_unnamed", "unlink", "create_exclusive"):
        record(name)
    return seen


def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int, part: str = "", spared: int = 0) -> None:
    """Make file operation ``name`` fail with ``code`` where an argument names ``part``, after ``spared`` calls."""
    real = getattr(files, name)
    left = [spared]

    def fail(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            return real(*arguments)
        if not part or any(f"/{part}/" in a + "/" for a in arguments if type(a) is str):
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    monkeypatch.setattr(files, name, fail)


def run(spool: Spool, message: bytes = b"body\n", envelope: bytes = ENVELOPE) -> int:
    """enqueue through two pipes."""
    ends = []
    for data in (message, envelope):
        read, write = os.pipe()
        os.write(write, data)
        os.close(write)
        ends.append(read)
    try:
        return enqueue(spool, 1234, 77, *ends)
    finally:
        for fd in ends:
            os.close(fd)


def complete(spool: Spool, envelope: bytes = ENVELOPE) -> Draft:
    draft = spool.begin(1234, 77)
    spool.write_message(draft, b"body\n")
    spool.message_complete(draft)
    assert spool.feed_envelope(draft, envelope)
    return draft


@pytest.mark.contract(
    "queue 3.1", "queue 3.2", "queue 2.14", "queue 2.15", "queue 2.16", "queue 5.8", "queue 5.18", "queue 4.4"
)
def test_message_and_envelope_have_qmails_bytes_and_the_inode_names_them(tree: Tree, spool: Spool) -> None:
    assert run(spool) == 0
    (number,) = tree.todo()
    message, envelope = tree.read(number)
    head, body = message.split(b"\n", 1)
    assert head.startswith(b"Received: (qmail 77 invoked by uid 1234); ") and body == b"body\n"
    assert envelope == b"u1234\0p77\0Fann@a\0Tbob@b\0Tcid@c\0"
    (path,) = tree.messages()
    assert path.stat().st_ino == number and path.parent.name == str(number % 23)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.contract("queue 12.1", "queue 4.8")
def test_classic_names_leave_intd_linked_to_todo(tree: Tree, spool: Spool) -> None:
    assert run(spool) == 0
    (number,) = tree.todo()
    links = (tree.queue / f"todo/{number}").stat().st_nlink
    assert links == (2 if spool.drafts.classic else 1)
    assert tree.leftovers() == ([str(number)] if spool.drafts.classic else [])


def test_unnamed_files_and_the_messages_name_are_on_disk_before_the_name_that_announces_them(
    tree: Tree, steps: list[str]
) -> None:
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    assert run(spool) == 0
    (n,) = tree.todo()
    assert steps == [
        f"link_unnamed mess/{n % 23}/{n}",
        "sync",
        "sync",
        f"sync_directory mess/{n % 23}",
        f"link_unnamed todo/{n}",
        "sync_directory todo",
    ]


@pytest.mark.contract("queue 5.7", "queue 5.9", "queue 5.10", "queue 5.12", "queue 5.13", "queue 5.15", "queue 5.16")
@pytest.mark.contract("queue 4.6", "queue 4.7")
def test_classic_order_is_the_originals(tree: Tree, steps: list[str]) -> None:
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    spool.drafts.classic = True
    assert run(spool) == 0
    (n,) = tree.todo()
    pid = steps[0].split(" ")[1]
    assert pid.startswith("pid/77.") and pid.endswith(".1")
    assert steps == [
        f"create_exclusive {pid}",
        f"link {pid} mess/{n % 23}/{n}",
        f"unlink {pid}",
        "sync",
        f"create_exclusive intd/{n}",
        "sync",
        f"sync_directory mess/{n % 23}",
        f"link intd/{n} todo/{n}",
        "sync_directory todo",
    ]


def test_a_batch_shares_directory_syncs_and_is_announced_after_all_messages(tree: Tree, steps: list[str]) -> None:
    spool = Spool(Layout(str(tree.home), 1), ACCOUNTS)
    drafts = [complete(spool) for _ in range(5)]
    commit(spool, drafts)
    assert [draft.exit_code for draft in drafts] == [0] * 5
    assert len(tree.todo()) == 5
    assert steps.count("sync") == 10 and steps.count("sync_directory mess/0") == 1
    first_todo = min(i for i, step in enumerate(steps) if step.startswith("link_unnamed todo"))
    assert steps.index("sync_directory mess/0") < first_todo
    assert steps[-1] == "sync_directory todo"


def test_what_is_synced_together_is_made_in_one_place_and_what_follows_in_another(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, real = [], files.open_unnamed

    def noted(directory: str) -> int:
        folders.append(directory)
        return real(directory)

    monkeypatch.setattr(files, "open_unnamed", noted)
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    batch = [complete(spool), complete(spool)]
    spool.commit(batch)
    for draft in batch:
        spool.close(draft)
    assert len(folders) == 4 and len(set(folders)) == 1, "message and envelope of both"
    assert spool.failed(complete(spool), 53).exit_code == 53
    complete(spool)
    assert len(set(folders)) == 3, "another after the commit, and after what came to nothing"


@pytest.mark.parametrize("why", ["a queue of another qmail", "removed while it is served", "a file is in the way"])
def test_without_places_for_drafts_they_are_made_in_mess(tree: Tree, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    folders, real = [], files.open_unnamed

    def noted(directory: str) -> int:
        fd = real(directory)
        folders.append(os.path.relpath(directory, tree.queue).split("/")[0])
        return fd

    monkeypatch.setattr(files, "open_unnamed", noted)
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    if why == "removed while it is served":
        assert run(spool) == 0
    shutil.rmtree(tree.queue / "pyqmail/drafts")
    if why == "a file is in the way":
        (tree.queue / "pyqmail/drafts").touch()
    folders.clear()
    assert run(spool) == 0 and run(spool) == 0
    assert folders == ["mess"] * 4 and not spool.drafts.classic


def test_one_failure_in_a_batch_leaves_the_others_whole(tree: Tree, spool: Spool) -> None:
    drafts = [complete(spool) for _ in range(3)]
    (tree.queue / f"todo/{drafts[1].number}").touch()
    commit(spool, drafts)
    assert [draft.exit_code for draft in drafts] == [0, QueueExit.NO_TODO_LINK, 0]
    assert len(tree.messages()) == 2


@pytest.mark.contract("queue 5.16")
def test_a_todo_name_that_exists_leaves_the_new_message_out(tree: Tree, spool: Spool) -> None:
    draft = complete(spool)
    (tree.queue / f"todo/{draft.number}").write_bytes(b"u1\0p1\0Fold\0Told\0")
    commit(spool, [draft])
    assert draft.exit_code == QueueExit.NO_TODO_LINK
    assert tree.messages() == []


@pytest.mark.parametrize(
    ("operation", "part", "exit_code"),
    [
        pytest.param("sync", "", QueueExit.WRITE_ERROR, id="a file that does not sync"),
        pytest.param("sync_directory", "mess", QueueExit.WRITE_ERROR, id="a mess directory that does not sync"),
        pytest.param("write_all", "", QueueExit.WRITE_ERROR, id="a full disk"),
    ],
)
@pytest.mark.contract("queue 5.11", "queue 5.12", "queue 5.15", "queue 4.9")
def test_a_failure_before_the_todo_link_leaves_nothing(
    tree: Tree, spool: Spool, monkeypatch: pytest.MonkeyPatch, operation: str, part: str, exit_code: int
) -> None:
    failing(monkeypatch, operation, errno.ENOSPC, part)
    assert run(spool) == exit_code
    assert tree.todo() == [] and tree.messages() == [] and tree.leftovers() == []


def test_what_was_accepted_is_never_undone(tree: Tree, spool: Spool) -> None:
    draft = complete(spool)
    spool.commit([draft])
    assert draft.exit_code == 0
    with pytest.raises(AssertionError):
        spool.failed(draft, QueueExit.WRITE_ERROR)
    spool.close(draft)
    assert len(tree.todo()) == 1 and len(tree.messages()) == 1


@pytest.mark.contract("queue 7.6")
def test_a_failure_after_the_todo_link_undoes_nothing_and_is_temporary(
    tree: Tree, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "sync_directory", errno.EIO, "todo")
    assert run(spool) == QueueExit.WRITE_ERROR
    assert len(tree.todo()) == 1 and len(tree.messages()) == 1


@pytest.mark.contract("queue 5.7", "queue 5.9", "queue 5.13", "queue 5.16")
@pytest.mark.parametrize(
    ("operation", "part", "exit_code"),
    [
        ("create_exclusive", "pid", QueueExit.NO_PID_FILE),
        ("link", "mess", QueueExit.NO_MESSAGE_LINK),
        ("create_exclusive", "intd", QueueExit.NO_ENVELOPE_FILE),
        ("link", "todo", QueueExit.NO_TODO_LINK),
        ("unlink", "pid", QueueExit.NO_PID_FILE),
    ],
)
def test_classic_failures_have_their_codes(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, operation: str, part: str, exit_code: int
) -> None:
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    spool.drafts.classic = True
    failing(monkeypatch, operation, errno.EIO, part)
    assert run(spool) == exit_code
    assert tree.todo() == []


@pytest.mark.parametrize(
    ("operation", "part", "spared", "exit_code"),
    [
        ("open_unnamed", "", 0, QueueExit.NO_PID_FILE),
        ("link_unnamed", "mess", 0, QueueExit.NO_MESSAGE_LINK),
        ("open_unnamed", "", 1, QueueExit.NO_ENVELOPE_FILE),
        ("link_unnamed", "todo", 0, QueueExit.NO_TODO_LINK),
    ],
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_or_broken_disk_never_falls_back(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, operation: str, part: str, spared: int, exit_code: int, code: int
) -> None:
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    failing(monkeypatch, operation, code, part, spared)
    assert run(spool) == exit_code
    assert not spool.drafts.classic


@pytest.mark.parametrize("operation", ["open_unnamed", "link_unnamed"])
@pytest.mark.parametrize("code", [errno.ENOENT, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM, errno.EINVAL, errno.ENOSYS])
def test_where_unnamed_files_do_not_work_the_classic_names_are_used_and_remembered(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, operation: str, code: int
) -> None:
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    failing(monkeypatch, operation, code)
    assert run(spool) == 0
    assert spool.drafts.classic
    (number,) = tree.todo()
    message, envelope = tree.read(number)
    assert message.endswith(b"\nbody\n") and envelope.endswith(b"Tcid@c\0")
    assert tree.messages()[0].stat().st_ino == number


def test_a_draft_that_gets_no_name_at_all_has_no_descriptor_that_is_closed(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    draft = spool.begin(7, 8)
    spool.write_message(draft, b"x\n")
    spool.message_complete(draft)
    assert spool.feed_envelope(draft, b"Fa@b\0Tc@d\0\0")
    failing(monkeypatch, "link_unnamed", errno.ENOENT)
    failing(monkeypatch, "link", errno.EIO)
    commit(spool, [draft])
    assert (draft.exit_code, draft.message, draft.envelope) == (QueueExit.NO_MESSAGE_LINK, -1, -1)


@pytest.mark.contract("queue 4.2", "queue 4.3")
def test_classic_files_while_message_and_envelope_are_written(tree: Tree) -> None:
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    spool.drafts.classic = True
    draft = spool.begin(1234, 77)
    spool.write_message(draft, b"body\n")
    (path,) = tree.messages()
    assert tree.leftovers() == [] and tree.todo() == []
    spool.message_complete(draft)
    assert not spool.feed_envelope(draft, b"Fann@a\0Tb")
    assert tree.leftovers() == [path.name] == os.listdir(tree.queue / "intd") and tree.todo() == []
    assert not list(tree.queue.glob("info/*/*"))


@pytest.mark.contract("queue 5.23", "queue 12.2")
@pytest.mark.parametrize("envelope", [b"Xa\0\0", b"Fa\0Xb\0\0", b"Fa\0T" + b"x" * 1003 + b"\0\0"])
def test_codes_11_and_91_leave_classic_files_for_the_sweep(tree: Tree, spool: Spool, envelope: bytes) -> None:
    assert run(spool, envelope=envelope) in (QueueExit.ADDRESS_TOO_LONG, QueueExit.ENVELOPE_FORMAT)
    assert len(tree.messages()) == len(tree.leftovers()) == (1 if spool.drafts.classic else 0)
    assert tree.todo() == []


@pytest.mark.contract("queue 5.14", "queue 12.2")
def test_code_54_cleans_up(tree: Tree, spool: Spool) -> None:
    assert run(spool, envelope=b"Fa\0Tb\0") == QueueExit.READ_ERROR
    assert tree.messages() == [] and tree.leftovers() == [] and tree.todo() == []


def test_more_than_nine_busy_pid_names_are_63(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    spool.drafts.classic = True
    monkeypatch.setattr("pyqmail.spool.enqueue.time.time", lambda: 1000.0)
    for sequence in range(1, 10):
        (tree.queue / f"pid/77.1000.{sequence}").touch()
    with pytest.raises(QueueFailure) as failure:
        spool.begin(1, 77)
    assert failure.value.exit_code == QueueExit.NO_PID_FILE


def test_a_hashed_todo_is_used(tree: Tree) -> None:
    for n in range(23):
        (tree.queue / f"todo/{n}").mkdir()
        (tree.queue / f"intd/{n}").mkdir()
    assert run(Spool(Layout(str(tree.home), 23, todo_split=True), ACCOUNTS)) == 0
    (todo,) = tree.queue.glob("todo/*/*")
    assert todo.parent.name == str(int(todo.name) % 23)


@pytest.mark.contract("queue 5.17")
def test_the_trigger_is_pulled_when_somebody_reads_it(tree: Tree, spool: Spool) -> None:
    trigger = os.open(tree.queue / "lock/trigger", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run(spool) == 0
        assert os.read(trigger, 10) == b"\0"
    finally:
        os.close(trigger)


def test_a_missing_trigger_is_no_error(tree: Tree, spool: Spool) -> None:
    (tree.queue / "lock/trigger").unlink()
    assert run(spool) == 0


@pytest.mark.parametrize(
    ("uid", "how"),
    [
        pytest.param(1, b"by alias", marks=pytest.mark.contract("queue 6.1")),
        pytest.param(2, b"from network", marks=pytest.mark.contract("queue 6.2")),
        pytest.param(7, b"for bounce", marks=pytest.mark.contract("queue 6.3")),
        pytest.param(0, b"by uid 0", marks=pytest.mark.contract("queue 6.4")),
        pytest.param(5, b"by uid 5", marks=pytest.mark.contract("queue 6.4")),
    ],
)
def test_the_received_line_says_who_called(uid: int, how: bytes) -> None:
    assert how_invoked(uid, ACCOUNTS) == how


def test_the_received_date_is_utc_and_the_day_is_not_padded() -> None:
    line = b"Received: (qmail 5 invoked by alias); 2 Jan 1970 03:04:05 -0000\n"
    assert format_received(5, b"by alias", 86400 + 3 * 3600 + 4 * 60 + 5) == line


address = st.binary(max_size=1001).map(lambda a: a.replace(b"\0", b""))


@given(st.lists(address, max_size=5), address, st.integers(min_value=1, max_value=300))
def test_envelope_chunks_do_not_matter(recipients: list[bytes], sender: bytes, size: int) -> None:
    records = b"F" + sender + b"\0" + b"".join(b"T" + a + b"\0" for a in recipients)
    wire = records + b"\0ignored"
    spool = Spool(Layout("/nonexistent", 23), ACCOUNTS)
    draft = Draft(-1, 1, classic=False, head=b"")
    draft.envelope = os.memfd_create("envelope")
    try:
        done = [spool.feed_envelope(draft, wire[i : i + size]) for i in range(0, len(wire), size)]
        assert done[-1]
        assert os.pread(draft.envelope, len(wire), 0) == records
    finally:
        os.close(draft.envelope)
