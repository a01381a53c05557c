"""The file of facts: made before its message is announced, and believed only beside that message."""

import os
import stat
from collections.abc import Iterator

import pytest

from pyqmail.exits import QueueExit
from pyqmail.formats.facts import ACCEPTED_MAX, Facts, RecipientFacts, Transfer, format_facts
from pyqmail.formats.todo import parse_todo
from pyqmail.policy.accounts import Accounts
from pyqmail.spool import facts, sweep
from pyqmail.spool.draft import Draft
from pyqmail.spool.enqueue import Spool
from pyqmail.spool.layout import MARK, Layout
from pyqmail.system import files
from tests.spool.queue_tree import Tree, commit

ACCOUNTS = Accounts([1, 2, 3, 0, 4, 5, 6, 7], [8, 9], b"alias")
ENVELOPE = b"Fann@a\0Tbob@b\0Tcid@c\0\0"
FACTS = Facts(b"HDRS", b"id", recipients=(RecipientFacts(b"bob@b", frozenset({b"NEVER"})),))


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=True)
    yield made
    made.close()


@pytest.fixture(params=["unnamed", "classic", "copied"])
def spool(tree: Tree, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Spool:
    made = Spool(Layout(str(tree.home), 23), ACCOUNTS)
    made.drafts.classic = request.param == "classic"
    if request.param == "copied":

        def refused(fd: int, path: str) -> None:
            raise PermissionError(1, "no")

        monkeypatch.setattr(files, "link_unnamed", refused)
    return made


def queue(spool: Spool, sender: bytes = b"ann@a", envelope: bytes = ENVELOPE) -> Draft:
    draft = spool.begin(1234, 77, format_facts(FACTS, sender))
    spool.write_message(draft, b"body\n")
    spool.message_complete(draft)
    assert spool.feed_envelope(draft, envelope)
    commit(spool, [draft])
    return draft


def the_number(tree: Tree) -> int:
    (number,) = tree.todo()
    return number


def todo_of(tree: Tree) -> bytes:
    return (tree.queue / f"todo/{the_number(tree)}").read_bytes()


def test_facts_are_queued_with_their_message(tree: Tree, spool: Spool) -> None:
    assert queue(spool).exit_code == 0
    layout, number = spool.drafts.layout, the_number(tree)
    todo = parse_todo(todo_of(tree))
    assert (todo.pid, todo.uid, todo.sender, todo.recipients) == (77, 1234, b"ann@a", (b"bob@b", b"cid@c"))
    assert facts.read(layout, number, todo.facts) == FACTS == facts.read(layout, number)
    assert todo_of(tree).startswith(b"p0 facts " + todo.facts + b"\0u1234\0p77\0F")
    assert stat.S_IMODE(os.stat(layout.facts(number)).st_mode) == 0o640
    assert os.stat(layout.mess(number)).st_mode & MARK
    assert list(sweep.with_facts(layout)) == [number]


@pytest.mark.parametrize("envelope", [b"Fann@a\0Tcid@c\0\0", b"F\0Tbob@b\0\0"], ids=["recipient", "sender"])
def test_facts_of_another_envelope_are_left_out(tree: Tree, spool: Spool, envelope: bytes) -> None:
    assert queue(spool, envelope=envelope).exit_code == 0
    assert todo_of(tree).startswith(b"u1234\0p77\0F")
    assert list(sweep.with_facts(spool.drafts.layout)) == []


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)], ids=["the most", "one more"])
def test_facts_that_would_leave_no_room_for_a_transfer_are_left_out(
    tree: Tree, spool: Spool, more: int, kept: bool
) -> None:
    bare = format_facts(Facts(envid=b"x" * 10_000), b"ann@a")
    data = format_facts(Facts(envid=b"x" * (10_000 + ACCEPTED_MAX + more - len(bare))), b"ann@a")
    draft = spool.begin(1234, 77, data)
    spool.write_message(draft, b"body\n")
    spool.message_complete(draft)
    assert spool.feed_envelope(draft, ENVELOPE)
    commit(spool, [draft])
    assert draft.exit_code == 0 and bool(list(sweep.with_facts(spool.drafts.layout))) is kept


def test_bytes_that_are_no_facts_are_left_out(tree: Tree, spool: Spool) -> None:
    draft = spool.begin(1234, 77, b"3:1 x")
    spool.write_message(draft, b"body\n")
    spool.message_complete(draft)
    assert spool.feed_envelope(draft, ENVELOPE)
    commit(spool, [draft])
    assert todo_of(tree).startswith(b"u1234\0") and draft.exit_code == 0


def test_a_long_envelope_has_its_record_before_the_first_byte(tree: Tree, spool: Spool) -> None:
    draft = spool.begin(1234, 77, format_facts(FACTS, b"ann@a"))
    spool.write_message(draft, b"body\n")
    spool.message_complete(draft)
    envelope = b"Fann@a\0Tbob@b\0" + b"".join(b"Tu%d@far.example\0" % n for n in range(9000)) + b"\0"
    for start in range(0, len(envelope), 4096):
        spool.feed_envelope(draft, envelope[start : start + 4096])
    commit(spool, [draft])
    todo = parse_todo(todo_of(tree))
    assert len(todo.recipients) == 9001 and facts.read(spool.drafts.layout, the_number(tree), todo.facts) == FACTS


def test_the_order_of_the_steps(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("sync", "sync_directory", "link_unnamed", "create_exclusive"):

        def wrapped(*arguments: object, name: str = name, real: object = getattr(files, name)) -> object:
            where = [a.partition("/queue/")[2].rpartition("/")[0] for a in arguments if isinstance(a, str)]
            steps.append(" ".join([name, *where]) if name != "sync_directory" else f"sync {str(arguments[0])[-9:]}")
            return real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(files, name, wrapped)
    spool = Spool(Layout(str(tree.home), 1), ACCOUNTS)
    assert queue(spool).exit_code == 0
    assert steps == [
        "link_unnamed mess/0",
        "sync",
        "sync",
        "sync",  # mess/N with its mark
        "create_exclusive pyqmail/facts/0",
        "sync",
        "sync l/facts/0",
        "sync ue/mess/0",
        "link_unnamed todo",
        "sync ueue/todo",
    ]


def test_facts_that_cannot_be_written_leave_nothing(tree: Tree, spool: Spool) -> None:
    layout = spool.drafts.layout
    for remainder in range(23):
        (tree.queue / f"pyqmail/facts/{remainder}").rmdir()
    assert queue(spool).exit_code == QueueExit.WRITE_ERROR
    assert not tree.todo() and not list(sweep.with_facts(layout)) and not tree.messages()


@pytest.mark.parametrize("damage", ["torn", "gone", "version", "token", "another message", "zeros"])
def test_what_is_not_this_messages_is_lost(tree: Tree, spool: Spool, damage: str) -> None:
    assert queue(spool).exit_code == 0
    layout, number, token = spool.drafts.layout, the_number(tree), parse_todo(todo_of(tree)).facts
    path = layout.facts(number)
    data = files.read_file(path)
    if damage == "gone":
        os.unlink(path)
    elif damage == "another message":
        (tree.queue / f"mess/{number % 23}/{number}").write_bytes(b"Received: other\n")
    else:
        changed = {"torn": data[:-5], "version": data.replace(b"facts 1", b"facts 2"), "zeros": bytes(len(data))}
        with open(path, "wb") as file:
            file.write(changed.get(damage, data))
    with pytest.raises(facts.FactsLost):
        facts.read(layout, number, b"x" if damage == "token" else token)


def test_an_unreadable_file_is_no_lost_one(tree: Tree, spool: Spool) -> None:
    assert queue(spool).exit_code == 0
    path = spool.drafts.layout.facts(the_number(tree))
    os.unlink(path)
    os.mkdir(path)
    with pytest.raises(OSError):
        facts.read(spool.drafts.layout, the_number(tree))


def moved(spool: Spool, uid: int) -> Draft:
    draft = spool.begin(uid, 77, format_facts(Facts(transfer=Transfer(b"ab" * 16, 5)), b"ann@a"))
    spool.write_message(draft, b"body\n")
    spool.message_complete(draft)
    assert spool.feed_envelope(draft, ENVELOPE)
    commit(spool, [draft])
    return draft


def test_a_transfer_is_taken_in_once_and_only_from_qmaild(tree: Tree, spool: Spool) -> None:
    assert moved(spool, ACCOUNTS.uid_daemon).exit_code == QueueExit.WRITE_ERROR  # nowhere to note it
    assert not tree.todo()
    (tree.queue / "pyqmail/transfers").mkdir()
    assert [moved(spool, ACCOUNTS.uid_daemon).exit_code for _ in range(2)] == [0, 0]
    layout, number = spool.drafts.layout, the_number(tree)
    assert facts.read(layout, number).transfer == Transfer(b"ab" * 16, 5)
    assert moved(spool, 1234).exit_code == 0  # another user's word: an ordinary message
    (other,) = set(tree.todo()) - {number}
    assert not os.path.exists(layout.facts(other))
