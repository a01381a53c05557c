"""The split of a queue is told from all its parts together, and one odd directory does not change it."""

import os
import shutil
from pathlib import Path

import pytest

from pyqmail.spool import sweep
from pyqmail.spool.layout import Layout, read_layout, split_of
from pyqmail.spool.queue_view import numbers
from pyqmail.spool.split import PARTS, describe_odd, odd_directories
from tests.programs.sending import make_queue


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    return make_queue(tmp_path, 7)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stray", ["7", "8", "99", "07", "x"])
def test_a_stray_directory_changes_nothing(queue: Path, part: str, stray: str) -> None:
    (queue / part / stray).mkdir()
    assert split_of(str(queue), 7) == 7


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("missing", range(7))
def test_a_missing_directory_changes_nothing(queue: Path, part: str, missing: int) -> None:
    (queue / part / str(missing)).rmdir()
    assert split_of(str(queue), 7) == 7


@pytest.mark.parametrize("stray", [True, False], ids=["stray", "missing"])
def test_the_configured_split_wins_when_all_parts_have_the_same_fault(queue: Path, *, stray: bool) -> None:
    for part in PARTS:
        (queue / part / "7").mkdir() if stray else (queue / part / "6").rmdir()
    assert split_of(str(queue), 7) == 7


def test_a_part_full_of_strays_or_empty_changes_nothing(queue: Path) -> None:
    for number in range(7, 40):
        (queue / "mess" / str(number)).mkdir()
    assert split_of(str(queue), 7) == 7
    shutil.rmtree(queue / "mess")
    assert split_of(str(queue), 7) == 7


@pytest.mark.parametrize("fault", [None, "mess/7", "mess/6", "info/0", "local/3"])
def test_a_queue_that_clearly_has_another_split_keeps_it(queue: Path, fault: str | None) -> None:
    if fault is not None:
        (queue / fault).rmdir() if (queue / fault).exists() else (queue / fault).mkdir()
    assert split_of(str(queue), 23) == 7
    assert split_of(str(queue), 2) == 7


def test_a_queue_without_directories_has_the_configured_split(tmp_path: Path) -> None:
    assert split_of(str(tmp_path / "queue"), 23) == 23


def test_a_stray_in_todo_does_not_make_it_hashed(queue: Path, tmp_path: Path) -> None:
    (tmp_path / "control/conf-split").write_text("7\n")
    assert not read_layout(str(tmp_path)).todo_split
    (queue / "todo/0").mkdir()
    assert not read_layout(str(tmp_path)).todo_split
    for number in range(1, 7):
        (queue / f"todo/{number}").mkdir()
    assert read_layout(str(tmp_path)).todo_split
    (queue / "todo/0").rmdir()
    assert read_layout(str(tmp_path)).todo_split


def test_odd_directories_are_named(queue: Path) -> None:
    assert odd_directories(str(queue), 7) == []
    (queue / "info/7").mkdir()
    (queue / "remote/3").rmdir()
    (queue / "todo/0").mkdir()
    odd = odd_directories(str(queue), 7)
    assert odd == [("info/7", False), ("remote/3", True), ("todo/0", False)]
    assert describe_odd("info/7", missing=False, split=7) == (
        "queue/info/7 does not belong to a queue split into 7: nothing in it is seen"
    )
    assert "is missing" in describe_odd("remote/3", missing=True, split=7)


def test_a_missing_directory_hides_nothing_in_the_others(queue: Path, tmp_path: Path) -> None:
    (queue / "info/6/13").write_bytes(b"")
    (queue / "info/0").rmdir()
    layout = Layout(str(tmp_path), 7)
    walk = sweep.Waiting(layout)
    assert next(walk) == 13
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            next(walk)
    assert numbers(layout) == [13]
    (queue / "info/0").mkdir()
    (queue / "info/0/7").write_bytes(b"")
    assert list(walk) == [7]


def test_a_message_whose_info_directory_is_missing_is_not_stale(queue: Path, tmp_path: Path) -> None:
    (queue / "mess/2/9").write_bytes(b"")
    os.utime(queue / "mess/2/9", (1000, 1000))
    layout = Layout(str(tmp_path), 7)
    later = 1001 + sweep.STALE_S
    assert list(sweep.stale(layout, later)) == [9]
    (queue / "info/2").rename(queue / "away")
    assert list(sweep.stale(layout, later)) == [None]


def test_a_message_counts_as_lost_only_where_its_directory_is_there(queue: Path, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path), 7)
    assert sweep.without_message(layout, 8)
    (queue / "mess/1").rmdir()
    with pytest.raises(FileNotFoundError):
        sweep.without_message(layout, 8)
    (queue / "mess/2/9").write_bytes(b"")
    assert not sweep.without_message(layout, 9)


def test_names_that_no_inode_can_have_are_no_messages(queue: Path) -> None:
    for name in ("4", "04", "9" * 20):
        (queue / "info/0" / name).write_bytes(b"")
    assert list(sweep.numbers_in(str(queue / "info/0"))) == [4]
