"""Power cuts of either node at every file operation of a transfer: nothing is lost, nor given up before it is taken.

All states with PYQMAIL_TESTS_LONG, or by ``python -m tests.crash.crossing``.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.crossing import LIVES, RECEIVER, SENDER, Life, explore, record_life
from tests.crash.explore import in_memory

STATES = {"stopped": 60, "running": 60, "preprocessed": 60}
LONG = bool(os.environ.get("PYQMAIL_TESTS_LONG"))
NEEDED = [  # in which life, whose syncs, and of what
    ("running", RECEIVER, "/queue/pyqmail/transfers$"),
    ("running", SENDER, "^a file$"),
    ("stopped", RECEIVER, "/queue/todo$"),
    ("running", SENDER, "/queue/info/"),
    ("stopped", SENDER, "/queue/pyqmail$"),
    ("stopped", SENDER, "/queue/(local|remote)/"),
    ("running", SENDER, "/queue/(local|remote)/"),
    ("running", SENDER, "/queue/pyqmail$"),
    ("stopped", RECEIVER, "/queue/mess/"),
    ("stopped", RECEIVER, "/queue/pyqmail/facts/"),
    ("stopped", RECEIVER, "^a file$"),
    ("preprocessed", RECEIVER, "/queue/pyqmail$"),
    ("preprocessed", RECEIVER, "/queue/info/"),
    ("preprocessed", RECEIVER, "/queue/(local|remote)/"),
]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user under strace")


@pytest.fixture(scope="module")
def lives() -> Iterator[dict[str, Life]]:
    """Each move, recorded once."""
    with in_memory() as where:
        yield {name: record_life(name, Path(where)) for name in LIVES}


@pytest.mark.parametrize("name", LIVES)
def test_no_power_cut_loses_a_message_that_moves_or_has_it_given_up_too_soon(lives: dict[str, Life], name: str) -> None:
    found = explore(lives[name], limit=0 if LONG else STATES[name])
    print(*found.lines(), sep="\n")
    assert not found.wrong, found.lines()
    assert sum(found.states.values()) == STATES[name] or LONG
    assert {kind.partition(",")[0] for kind in found.states} == {"sender", "receiver"}


@pytest.mark.parametrize(("name", "node", "what"), NEEDED if LONG else NEEDED[:3])
def test_a_sync_left_out_of_a_transfer_is_noticed(lives: dict[str, Life], name: str, node: str, what: str) -> None:
    assert explore(lives[name], effort=0, without=(node, what)).wrong
