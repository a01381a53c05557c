"""control/remotelimits, through qmail-rspawn and its workers, to servers that are asked for too much."""

import os
import threading
from collections.abc import Iterator

import pytest

from tests.mail_sink import Transaction, accept_all, mail_sink
from tests.programs.spawn_bench import Home, Spawn
from tests.programs.test_remote_together import ask, settle
from tests.programs.test_remote_together import home as home  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs files of another owner")

FULL = b"ZHeld back: 127.0.0.1 has all of its 2 connections. (#4.4.5)\n"
PAUSED = b"ZHeld back: 127.0.0.1 gets no message for "


@pytest.fixture
def limited(home: Home) -> Iterator[Home]:
    """Its table is there."""
    (home.path / "queue/pyqmail").mkdir()
    (home.path / "queue/pyqmail/remotelimits").touch()
    yield home


def test_two_domains_of_one_exchanger_share_its_connections(limited: Home) -> None:
    both, go = threading.Semaphore(0), threading.Event()

    def slow(line: bytes, transaction: Transaction) -> bytes | None:
        if line.startswith(b"MAIL"):
            both.release()
            assert go.wait(20)
        return accept_all(line, transaction)

    with mail_sink(slow) as sink:
        settle(limited, smtproutes=f":127.0.0.1:{sink.port}", remotelimits="127.0.0.1:2:", remotereuse="20")
        spawn = Spawn(limited, "qmail-rspawn")
        for slot, recipient in enumerate(("a@x.test", "b@y.test")):
            spawn.send(slot, recipient)
            assert both.acquire(timeout=20)
        for slot, recipient in enumerate(("c@x.test", "d@z.test"), start=2):
            spawn.send(slot, recipient)
            report = spawn.report()
            assert (report.slot, report.letter + report.text) == (slot, FULL)
        go.set()
        assert [spawn.report().letter for _ in range(2)] == [b"K", b"K"]
        # a connection that is kept has its place, and is used again
        assert [report.letter for report in ask(spawn, ["e@x.test"])] == [b"K"]
        spawn.end()
    assert (sink.connections, len(sink.taken)) == (2, 3)


@pytest.mark.parametrize(
    ("verb", "reply", "slower"),
    [
        pytest.param(b"MAIL", b"421 4.7.0 too much from you\r\n", True, id="421"),
        pytest.param(b"MAIL", b"450 4.7.1 Error: too much mail from you\r\n", True, id="4.7.1 to MAIL"),
        pytest.param(b"RCPT", b"451 4.7.500 Server busy\r\n", True, id="4.7.500 to RCPT"),
        pytest.param(b"RCPT", b"450 4.7.1 greylisted\r\n", False, id="4.7.1 to RCPT"),
        pytest.param(b"RCPT", b"450 4.2.1 this user gets too much\r\n", False, id="4.2.1"),
        pytest.param(b"DATA", b"451 4.3.0 later\r\n", False, id="4.3.0"),
    ],
)
def test_who_says_that_it_is_too_much_is_left_alone(limited: Home, verb: bytes, reply: bytes, slower: bool) -> None:
    def refuse(line: bytes, transaction: Transaction) -> bytes | None:
        return reply if line.startswith(verb) else accept_all(line, transaction)

    with mail_sink(refuse) as sink:
        settle(limited, smtproutes=f":127.0.0.1:{sink.port}", remotelimits="*::")
        spawn = Spawn(limited, "qmail-rspawn")
        assert b"Remote host said: " + reply[:5] in spawn.deliver("a@x.test")
        assert spawn.deliver("b@y.test").startswith(PAUSED) == slower
        spawn.end()
    assert sink.connections == (1 if slower else 2)


def test_messages_in_a_time(limited: Home) -> None:
    with mail_sink() as sink:
        settle(limited, smtproutes=f":127.0.0.1:{sink.port}", remotelimits="127.0.0.1::2/3600", remotereuse="20")
        spawn = Spawn(limited, "qmail-rspawn")
        said = [spawn.deliver(recipient) for recipient in ("a@x.test", "b@x.test", "c@x.test")]
        assert [one[:1] for one in said] == [b"K", b"K", b"Z"] and said[2].startswith(PAUSED)
        spawn.end()
    assert len(sink.taken) == 2


def test_a_line_that_is_none_makes_mail_wait(limited: Home) -> None:
    settle(limited, smtproutes=":127.0.0.1:1", remotelimits="many")
    spawn = Spawn(limited, "qmail-rspawn")
    assert spawn.deliver("a@x.test") == b"ZUnable to read control files. (#4.3.0)\n"
    spawn.end()
