"""Messages on their way out: when the names of their files are synced, and that mess/N goes no sooner."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from pyqmail.send import leaving
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.leaving import Leaving
from pyqmail.send.means import Means
from pyqmail.system import files
from pyqmail.system.loop import Loop
from tests.send.parts import NOW, means_for

TURN_S = 10.0  # more than any timer here


class Place:
    """A queue from which messages are removed; ``done`` has what happened, in its order."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.fails = False
        self.means: Means = means_for(
            home, Loop(), lambda event: self.done.append(event.format().decode()), lambda: NOW
        )
        self.leaving = Leaving(self.means, cast(Cleaner, self))
        self.todo = str(home / "queue/todo")
        monkeypatch.setattr(files, "sync_directory", self._sync)

    def ask(self, kind: bytes, number: int, answered: Callable[[bool], None]) -> None:
        self.done.append(f"{kind.decode()}/{number}")
        answered(True)

    def _sync(self, folder: str) -> None:
        self.done.append("sync " + folder.rpartition("/")[2])
        if self.fails:
            raise OSError

    def run(self) -> None:
        while not self.leaving.idle:
            self.means.loop.run_once(TURN_S)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_those_that_leave_within_a_moment_share_one_sync(place: Place) -> None:
    for number in (7, 8, 9):
        place.leaving.clean(number, place.todo)
    assert not place.done and not place.leaving.idle
    place.run()
    assert place.done == ["sync todo", "foop/7", "foop/8", "foop/9"]


def test_what_leaves_while_the_disk_is_busy_has_the_next_sync(place: Place) -> None:
    place.leaving.clean(7, place.todo)
    ask, place.ask = place.ask, lambda *words: (place.leaving.clean(8, place.todo), ask(*words))[1]  # type: ignore[method-assign]
    while len(place.done) < 2:
        place.means.loop.run_once(TURN_S)
    place.ask = ask  # type: ignore[method-assign]
    place.run()
    assert place.done == ["sync todo", "foop/7", "sync todo", "foop/8"]


@pytest.mark.parametrize("why", ["many", "the end"])
def test_nothing_is_gathered_where_they_are_many_or_the_end_has_come(
    place: Place, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "GATHER_S", 3600.0)
    if why == "many":
        monkeypatch.setattr(leaving, "GATHER_MAX", 2)
    else:
        place.means.exiting = True
    for number in (7, 8):
        place.leaving.clean(number, place.todo)
    place.run()
    assert place.done[0] == "sync todo" and place.done[-1] == "foop/8"


def test_a_sync_that_fails_leaves_the_messages(place: Place) -> None:
    place.fails = True
    place.leaving.clean(7, place.todo)
    place.run()
    assert place.done == [
        "sync todo",
        "warning: unable to sync the queue's directories; messages stay for the cleanup",
    ]


def test_what_had_no_names_goes_at_once(place: Place) -> None:
    place.leaving.clean(7)
    assert place.done == ["foop/7"]
