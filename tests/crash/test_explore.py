"""Power cuts at every file operation of a queue's life: what is acknowledged is safe, whatever the disk then holds.

All states, and more of them, by ``python -m tests.crash.explore``.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.explore import Life, explore, record_life

STATES = 1500
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user under strace")


@pytest.fixture(scope="module")
def lives() -> Iterator[dict[str, Life]]:
    """Each scenario, lived once."""
    with TemporaryDirectory(prefix="pyqmail-crash-") as where:
        Path(where).chmod(0o755)
        yield {name: record_life(name, Path(where)) for name in ("scripted", "mailbox")}


@pytest.mark.parametrize(("name", "states"), [("scripted", STATES), ("mailbox", 500)])
def test_no_power_cut_loses_cuts_short_or_misleads_a_message(lives: dict[str, Life], name: str, states: int) -> None:
    result = explore(lives[name], limit=states)
    print(*result.lines(), sep="\n")
    assert not result.wrong, result.lines()
    assert sum(result.states.values()) == states
    assert set(result.states) == {"ordered", "folders", "any order"}


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("scripted", "^a file$"),
        ("scripted", "/queue/mess/"),
        ("scripted", "/queue/todo$"),
        ("scripted", "/queue/info/"),
        ("scripted", "/queue/local/"),
        ("scripted", "/queue/bounce$"),
        ("mailbox", "^a file$"),
        ("mailbox", "/home/Maildir/new$"),
    ],
)
def test_a_sync_left_out_is_noticed(lives: dict[str, Life], name: str, without: str) -> None:
    assert explore(lives[name], without=without, most_wrong=1).wrong
