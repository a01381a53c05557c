"""S1 to S4 where each message is to be copied elsewhere: in which order, and what becomes of one that is not."""

import os
from collections.abc import Iterable, Iterator

import pytest

from pyqmail.exits import QueueExit
from pyqmail.formats.todo import format_info, parse_info_shadow, parse_todo
from pyqmail.spool.draft import PENDING, Draft
from pyqmail.spool.enqueue import Spool
from pyqmail.spool.layout import Layout
from pyqmail.system import files
from tests.spool.queue_tree import Tree, commit
from tests.spool.test_enqueue import ACCOUNTS, complete

IDS = [f"{number:032x}".encode() for number in range(1, 10)]


class Elsewhere:
    """Copies the messages whose IDs are in ``made``, and remembers what it saw."""

    def __init__(self, layout: Layout, made: Iterable[bytes], *, required: bool) -> None:
        self.required = required
        self.seen: list[str] = []
        self.ended: dict[bytes, int] = {}
        self._layout = layout
        self._made = set(made)
        self._ids = iter(IDS)
        self._drafts: list[Draft] = []

    def new_id(self) -> bytes:
        return next(self._ids)

    def begin(self, drafts: Iterable[Draft]) -> None:
        self._drafts = list(drafts)
        self.seen.append("begin")

    def settle(self) -> set[bytes]:
        self.seen.append("settle")
        assert all(draft.linked and draft.exit_code == PENDING for draft in self._drafts)
        return self._made

    def end(self, drafts: Iterable[Draft], copied: set[bytes]) -> None:
        self.seen.append("end")
        assert copied == self._made
        self.ended = {draft.shadow: draft.exit_code for draft in drafts}


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=True)
    yield made
    made.close()


def queued(tree: Tree) -> list[bytes]:
    """What todo/ holds."""
    return [path.read_bytes() for path in (tree.home / "queue/todo").iterdir()]


@pytest.mark.parametrize("classic", [False, True], ids=["unnamed", "classic"])
def test_a_copied_message_names_its_copy_and_is_announced_after_it(
    tree: Tree, classic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(str(tree.home), 23)
    copies = Elsewhere(layout, IDS[:1], required=True)
    spool = Spool(layout, ACCOUNTS, copies)
    spool.drafts.classic = classic
    for name in ("link", "link_unnamed"):
        real = getattr(files, name)
        monkeypatch.setattr(
            files, name, lambda source, path, real=real: (copies.seen.append(path.split("/")[-2]), real(source, path))
        )
    draft = complete(spool)
    commit(spool, [draft])
    (todo,) = queued(tree)
    assert (draft.exit_code, parse_todo(todo).shadow) == (QueueExit.DONE, IDS[0])
    assert parse_info_shadow(format_info(parse_todo(todo))) == IDS[0]
    order = [step for step in copies.seen if step in ("begin", "settle", "todo", "end")]
    assert order == ["begin", "settle", "todo", "end"]


def test_one_without_a_copy_is_refused_and_leaves_nothing_where_copies_are_required(tree: Tree) -> None:
    layout = Layout(str(tree.home), 23)
    copies = Elsewhere(layout, IDS[1:2], required=True)
    spool = Spool(layout, ACCOUNTS, copies)
    drafts = [complete(spool), complete(spool)]
    commit(spool, drafts)
    assert [draft.exit_code for draft in drafts] == [QueueExit.NEXT_HOP_TEMPORARY, QueueExit.DONE]
    assert [parse_todo(data).shadow for data in queued(tree)] == [IDS[1]]
    assert len([path for path in (tree.home / "queue/mess").rglob("*") if path.is_file()]) == 1
    assert copies.ended[IDS[1]] == QueueExit.DONE


@pytest.mark.parametrize("facts", [b"", b"0123456789abcdef"], ids=["plain", "behind its facts"])
def test_one_without_a_copy_goes_alone_and_says_so_where_they_are_preferred(tree: Tree, facts: bytes) -> None:
    layout = Layout(str(tree.home), 23)
    spool = Spool(layout, ACCOUNTS, Elsewhere(layout, [], required=False))
    draft = complete(spool)
    if facts:
        draft.token = facts
        draft.envelope = rewritten(draft.envelope, b"p0 facts " + facts + b"\0")
        draft.facts = b""
    commit(spool, [draft])
    (todo,) = queued(tree)
    assert draft.exit_code == QueueExit.DONE
    assert (parse_todo(todo).shadow, b"p0 alone  " + IDS[0] + b"\0" in todo) == (b"", True)
    assert parse_todo(todo).recipients == (b"bob@b", b"cid@c")


def rewritten(fd: int, before: bytes) -> int:
    """The open file with ``before`` in front of what it holds."""
    data = os.pread(fd, 4096, 0)
    os.pwrite(fd, before + data, 0)
    return fd


@pytest.mark.parametrize("data", [b"Fann@a\0", b"Fann@a", b"Fann@a\0x\0", b"Fann@a\0p0 shadow " + IDS[0], b""])
def test_info_of_a_message_without_a_copy_names_none(data: bytes) -> None:
    assert parse_info_shadow(data) == b""
