"""A line about long work: on a terminal only, and gone when the work is done."""

import os
import select
from collections.abc import Iterator

import pytest

from pyqmail.system import progress
from pyqmail.system.progress import Progress, tell_while, told


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Both ends of a terminal, for work that is long at once."""
    monkeypatch.setattr(progress, "START_S", 0.0)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    ours, theirs = os.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def seen(ours: int) -> str:
    """What is there by now."""
    return os.read(ours, 65536).decode() if select.select([ours], [], [], 0)[0] else ""


def seen_to(ours: int, end: str = "\r\x1b[K") -> str:
    """What comes up to ``end``: a terminal takes its time."""
    text = ""
    while not text.endswith(end):
        assert select.select([ours], [], [], 60)[0], text
        text += os.read(ours, 65536).decode()
    return text


def test_a_terminal_sees_how_far_it_is(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    assert list(told(["a", "b", "c", "d"], "moving", theirs)) == ["a", "b", "c", "d"]
    assert f"\rmoving [{'#' * 15}{' ' * 15}] 2 of 4, 50%\x1b[K" in seen_to(ours, "75%\x1b[K\r\x1b[K")


def test_who_stops_early_leaves_no_line(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    items = told([1, 2, 3], "moving", theirs)
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert "0 of 3" in seen_to(ours, "0%\x1b[K\r\x1b[K")


def test_what_blocks_is_counted_meanwhile(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = terminal
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    heard: list[str] = []

    def work() -> str:
        heard.append(seen_to(ours, "25%\x1b[K"))
        return "done"

    assert tell_while(work, "fetching", 8, lambda: 2, theirs) == "done"
    assert "fetching [" in heard[0] and "2 of 8, 25%" in heard[0] and seen_to(ours)


def test_without_a_terminal_or_when_it_is_quick_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    ours, theirs = os.openpty()
    try:
        assert list(told([1, 2], "moving", theirs)) == [1, 2] and seen(ours) == ""
        monkeypatch.setattr(progress, "START_S", 0.0)
        assert list(told([1, 2], "moving", writer)) == [1, 2]
        assert tell_while(lambda: 5, "fetching", 8, lambda: 2, writer) == 5 and seen(reader) == ""
        os.close(theirs)
        gone = Progress("moving", 2, ours)
        gone.tell(1)
        gone.tell(2)
    finally:
        for fd in (reader, writer, ours):
            os.close(fd)
