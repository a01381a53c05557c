"""The lines uid= of control/relaylimits: what a local user may queue in a time, as values and at a running service."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.intake.flood import Flood, flood_of
from tests.spool.queue_tree import Tree, qmail_queue
from tests.waiting import wait_for

HOUR = 3600


def home_with(tmp_path: Path, text: str) -> str:
    (tmp_path / "control").mkdir(exist_ok=True)
    (tmp_path / "control/relaylimits").write_text(text)
    return str(tmp_path)


def test_each_user_is_counted_apart_and_a_line_of_its_own_counts_before_that_of_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    flood = Flood(home_with(tmp_path, "uid=:2/3600\nuid=daemon:1/60\nuid=7:\nann:1\n"), lambda: now[0])
    assert [flood.over(5000) for _ in range(4)] == [False, False, True, True]
    assert [flood.over(5001), flood.over(1), flood.over(1)] == [False, False, True]
    assert not any(flood.over(7) for _ in range(9))
    now[0] += 2 * HOUR
    assert not flood.over(5000)
    assert capfd.readouterr().err.splitlines() == [
        "qmail-queued: over limit: uid 5000 messages 2/3600",
        "qmail-queued: over limit: uid 1 messages 1/60",
    ]


def test_a_file_without_such_lines_counts_nobody_and_a_user_that_is_none_is_not_everybody(tmp_path: Path) -> None:
    assert flood_of(str(tmp_path)) is None
    assert flood_of(home_with(tmp_path, ":5\nann:1\nuid=x:recipients=1\n")) is None
    assert flood_of(home_with(tmp_path, "uid=no-such-user:1\n")) is None


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    flood = Flood(home_with(tmp_path, "uid=:1\n"))
    assert [flood.over(5000) for _ in range(2)] == [False, True]
    home_with(tmp_path, "uid=:33\n")
    assert not flood.over(5000)


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=False)
    yield made
    made.close()


@pytest.mark.skipif(os.getuid() != 0, reason="needs the users of a real tree")
def test_who_floods_is_refused_for_now_and_root_is_not(tree: Tree) -> None:
    (tree.home / "control/relaylimits").write_text("uid=:2/3600\n")
    tree.start_service()
    codes = [qmail_queue(tree, b"x\n", b"Fa\0Tb\0\0")[0] for _ in range(4)]
    assert sorted(codes) == [0, 0, 71, 71]
    assert [qmail_queue(tree, b"x\n", b"Fa\0Tb\0\0", uid=0)[0] for _ in range(3)] == [0] * 3
    wait_for(lambda: len(list((tree.queue / "todo").iterdir())) == 5, "five messages in the queue")
