"""Power cuts at every file operation of qmail-q's orders: what was confirmed is in force, and nothing else is.

All states with PYQMAIL_TESTS_LONG, or by ``python -m tests.crash.ordering``.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.explore import in_memory
from tests.crash.ordering import LIVES, Life, explore, record_life

STATES = 60
LONG = bool(os.environ.get("PYQMAIL_TESTS_LONG"))
NEEDED = [  # in which life, and what
    ("stopped", "/queue/pyqmail$"),
    ("running", "^a file$"),
    ("running", "/queue/bounce$"),
    ("running", "/queue/pyqmail$"),
    ("running", "/queue/(info|local|remote)/"),
    ("stopped", "^a file$"),
    ("stopped", "/queue/bounce$"),
    ("stopped", "/queue/(info|local|remote)/"),
]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user under strace")


@pytest.fixture(scope="module")
def lives() -> Iterator[dict[str, Life]]:
    """Each life, recorded once."""
    with in_memory() as where:
        yield {name: record_life(name, Path(where)) for name in LIVES}


@pytest.mark.parametrize("name", LIVES)
def test_no_power_cut_undoes_an_order_that_was_confirmed(lives: dict[str, Life], name: str) -> None:
    found = explore(lives[name], limit=0 if LONG else STATES)
    print(*found.lines(), sep="\n")
    assert not found.wrong, found.lines()
    assert sum(found.states.values()) == STATES or LONG


@pytest.mark.parametrize(("name", "what"), NEEDED if LONG else NEEDED[:3])
def test_a_sync_left_out_of_an_order_is_noticed(lives: dict[str, Life], name: str, what: str) -> None:
    assert explore(lives[name], effort=0, without=what).wrong
