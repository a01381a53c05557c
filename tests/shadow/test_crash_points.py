"""The power of a node fails: before and after each step towards a copy, its marks, its end, and its adoption.

Every point with PYQMAIL_TESTS_LONG, or by ``python -m tests.crash.copying``.
"""

import os

import psycopg
import pytest

from pyqmail.shadow.copies import Copies
from tests.crash.copying import SCENES, cuts
from tests.postgresql import DATABASE, PASSWORD, PostgreSQL
from tests.shadow.node import SCHEMA

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
LONG = bool(os.environ.get("PYQMAIL_TESTS_LONG"))


@pytest.fixture(scope="module")
def url(database: PostgreSQL) -> str:
    """A database of theirs alone: the node of other tests is alive, and writes into its own."""
    database.run("CREATE DATABASE power")
    made = database.url.removesuffix(DATABASE) + "power"
    with psycopg.connect(made, password=PASSWORD) as connection:
        connection.execute(SCHEMA.read_bytes())
    return made


@pytest.mark.parametrize("scene", list(SCENES))
def test_what_was_acknowledged_is_there_once_wherever_the_power_fails(url: str, scene: str) -> None:
    result = cuts(url, scene, some=not LONG)
    assert result.faults >= 3
    assert not result.wrong, result.lines()


def test_a_queue_that_does_not_wait_for_its_copies_is_found(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Copies, "settle", lambda copies: set(copies._asked))
    result = cuts(url, "started anew", some=True)
    assert any("has no row" in wrong for wrong in result.wrong), result.lines()
