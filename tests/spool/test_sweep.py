"""What a crash left behind."""

import os
from pathlib import Path

import pytest

from pyqmail.spool import sweep
from pyqmail.spool.layout import Layout
from tests.programs.sending import make_queue


@pytest.mark.contract("queue 4.15")
@pytest.mark.parametrize(
    ("age_s", "beside", "stale"),
    [
        (129601, None, True),
        (129601, "intd/4", True),
        (129599, None, False),
        (129700, "info/1/4", False),
        (129700, "todo/4", False),
    ],
    ids=["older than 36 hours", "old with its envelope", "younger", "preprocessed", "waiting"],
)
def test_only_old_messages_without_an_owner_are_stale(
    tmp_path: Path, age_s: int, beside: str | None, stale: bool
) -> None:
    queue = make_queue(tmp_path)
    (queue / "mess/1/4").write_bytes(b"")
    os.utime(queue / "mess/1/4", (1000, 9999999))
    if beside is not None:
        (queue / beside).write_bytes(b"")
    found = list(sweep.stale(Layout(str(tmp_path), 3), 1000 + age_s))
    assert found == [4 if stale else None]


def test_other_names_are_skipped(tmp_path: Path) -> None:
    for name in ("4", "4.aside", "x", "-5"):
        (tmp_path / name).write_bytes(b"")
    assert list(sweep.numbers_in(str(tmp_path))) == [4]


@pytest.mark.contract("queue 12.9")
def test_todo_has_only_names_of_digits(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    for name in ("4", "17", "4.aside", ".5", "x6", "-7", "+8", "9 ", "\u0661"):
        (queue / "todo" / name).write_bytes(b"")
    assert sorted(sweep.new(Layout(str(tmp_path), 3))) == [4, 17]


def test_the_walk_at_start_names_each_message_once_and_goes_on_after_trouble(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    for number in range(9):
        (queue / f"info/{number % 3}/{number}").write_bytes(b"")
    (queue / "info/1").rename(queue / "away")
    (queue / "info/1").write_bytes(b"no directory")
    walk = sweep.Waiting(Layout(str(tmp_path), 3))
    assert {next(walk) for _ in range(3)} == {0, 3, 6}
    for _ in range(2):
        with pytest.raises(NotADirectoryError):
            next(walk)
    (queue / "info/1").unlink()
    (queue / "away").rename(queue / "info/1")
    assert sorted(walk) == [1, 2, 4, 5, 7, 8]
