"""The power of a node fails: before and after each step towards a copy, its marks, its end, and its adoption.

Every point with PYQMAIL_TESTS_LONG, or by ``python -m tests.crash.copying``.
"""

import os

import pytest

from pyqmail.shadow.copies import Copies
from tests.crash.copying import SCENES, cuts
from tests.postgresql import PostgreSQL

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
LONG = bool(os.environ.get("PYQMAIL_TESTS_LONG"))


@pytest.mark.parametrize("scene", list(SCENES))
def test_what_was_acknowledged_is_there_once_wherever_the_power_fails(database: PostgreSQL, scene: str) -> None:
    result = cuts(database.url, scene, some=not LONG)
    assert result.faults >= 3
    assert not result.wrong, result.lines()


def test_a_queue_that_does_not_wait_for_its_copies_is_found(
    database: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copies, "settle", lambda copies: set(copies._asked))
    result = cuts(database.url, "started anew", some=True)
    assert any("has no row" in wrong for wrong in result.wrong), result.lines()
