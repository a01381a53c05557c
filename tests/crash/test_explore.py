"""Power cuts at every file operation of a queue's life: what is acknowledged is safe, whatever the disk then holds.

All states with PYQMAIL_TESTS_LONG, or by ``python -m tests.crash.explore``.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.explore import LIVES, Life, explore, record_life

STATES = 1000
LONG = bool(os.environ.get("PYQMAIL_TESTS_LONG"))
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user under strace")


@pytest.fixture(scope="module")
def lives() -> Iterator[dict[str, Life]]:
    """Each scenario, lived once."""
    with TemporaryDirectory(prefix="pyqmail-crash-") as where:
        Path(where).chmod(0o755)
        yield {name: record_life(name, Path(where)) for name in LIVES}


COUNTS = {"scripted": STATES, "mailbox": 300, "scripted-named": 200, "mailbox-named": 100}
COUNTS |= {"scripted-copied": 60, "mailbox-copied": 60}


@pytest.mark.parametrize(("name", "states"), COUNTS.items())
def test_no_power_cut_loses_cuts_short_or_misleads_a_message(lives: dict[str, Life], name: str, states: int) -> None:
    result = explore(lives[name], limit=0 if LONG else states)
    print(*result.lines(), sep="\n")
    assert not result.wrong, result.lines()
    assert sum(result.states.values()) == states or LONG
    assert set(result.states) == {"ordered", "folders", "any order"}


@pytest.mark.parametrize("name", LIVES)
def test_each_life_uses_the_names_that_it_is_about(lives: dict[str, Life], name: str) -> None:
    folders = {os.path.dirname(path) for operation in lives[name][1] for path, _ in operation.names}
    classic = {part for part in ("queue/pid", "queue/intd", "Maildir/tmp") if any(x.endswith(part) for x in folders)}
    wanted = {"queue/pid", "queue/intd"} | ({"Maildir/tmp"} if name.startswith("mailbox") else set())
    assert classic == (wanted if name.endswith(("-named", "-copied")) else set())


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("scripted", "^a file$"),
        ("scripted", "/queue/mess/"),
        ("scripted", "/queue/todo$"),
        ("scripted", "/queue/pyqmail/facts/"),
        ("scripted", "/queue/info/"),
        ("scripted", "/queue/local/"),
        ("scripted", "/queue/bounce$"),
        ("mailbox", "^a file$"),
        ("mailbox", "/home/Maildir/new$"),
        ("scripted-named", "/queue/mess/"),
        ("mailbox-named", "/home/Maildir/new$"),
    ],
)
def test_a_sync_left_out_is_noticed(lives: dict[str, Life], name: str, without: str) -> None:
    assert explore(lives[name], without=without, most_wrong=1).wrong


if "NOTQMAIL_HOME" in os.environ:

    def test_the_same_cuts_lose_mail_of_notqmail_which_syncs_no_directory() -> None:
        from tests.crash.peer import explore_peer, record_peer

        with TemporaryDirectory(prefix="pyqmail-crash-") as where:
            Path(where).chmod(0o755)
            life = record_peer("scripted", Path(where), os.environ["NOTQMAIL_HOME"])
            assert explore_peer(life, effort=0, limit=90, jobs=4).lost["folders"]
