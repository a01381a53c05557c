"""Power cuts of either node at every file operation of a transfer: nothing is lost, nor given up before it is taken.

All states with PYQMAIL_TESTS_LONG, or by ``python -m tests.crash.crossing``.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.crossing import RECEIVER, SENDER, Life, explore, record_life
from tests.crash.explore import in_memory

STATES = 150
LONG = bool(os.environ.get("PYQMAIL_TESTS_LONG"))
NEEDED = {  # whose syncs, and of what
    "note": (RECEIVER, "/queue/pyqmail/transfers$"),
    "identity and orders": (SENDER, "/queue/pyqmail$"),
    "recipients": (SENDER, "/queue/(local|remote)/"),
    "todo": (RECEIVER, "/queue/todo$"),
    "mess": (RECEIVER, "/queue/mess/"),
    "facts": (RECEIVER, "/queue/pyqmail/facts/"),
    "files taken in": (RECEIVER, "^a file$"),
    "files of orders": (SENDER, "^a file$"),
}
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user under strace")


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    """One move, recorded."""
    with in_memory() as where:
        yield record_life(Path(where))


def test_no_power_cut_loses_a_message_that_moves_or_has_it_given_up_too_soon(life: Life) -> None:
    found = explore(life, limit=0 if LONG else STATES)
    print(*found.lines(), sep="\n")
    assert not found.wrong, found.lines()
    assert sum(found.states.values()) == STATES or LONG
    assert {kind.partition(",")[0] for kind in found.states} == {"sender", "receiver"}


@pytest.mark.parametrize("what", list(NEEDED)[: None if LONG else 3])
def test_a_sync_left_out_of_a_transfer_is_noticed(life: Life, what: str) -> None:
    assert explore(life, effort=0, without=NEEDED[what]).wrong
