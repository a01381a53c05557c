"""control/relaylimits at the door: qmail-smtpd, qmail-stated as a process, its file, its alerts, and qmail-limits."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.control import Control
from pyqmail.incoming.check import Rules
from pyqmail.incoming.checks import CHECKS, Checks
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.relay_limits import RelayLimit
from pyqmail.protocol.reply import Reply
from pyqmail.protocol.state import SOCKET
from pyqmail.system.file_cache import FileCache
from tests.programs.door import BIN, DEADLINE_S, Door, door_of
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the service becomes another user")
RELAY = Client(b"192.0.2.7", b"unknown", None, relay=b"")
STRANGER = Client(b"192.0.2.7", b"unknown", None)


@contextlib.contextmanager
def stated(home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with (home / "stated.log").open("ab") as log:
        process = subprocess.Popen([BIN / "qmail-stated"], env={"QMAIL_HOME": str(home)}, stderr=log)
    try:
        wait_for(lambda: connects(home), "qmail-stated", DEADLINE_S)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)


def connects(home: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return sock.connect_ex(str(home) + SOCKET) == 0


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        (made.base / "run").mkdir()
        made.base.chmod(0o755)
        made.control(relaylimits=":3/3600,messages=2/3600\nbig@here.test:1000,550\n198.51.100.0/24:5\n")
        yield made


def send(door: Door, recipients: int, sender: bytes = b"a@here.test") -> list[bytes]:
    """The codes of a session with one message to so many."""
    commands = b"MAIL FROM:<%b>\r\n" % sender + b"RCPT TO:<x@far.test>\r\n" * recipients
    said, _ = door.talk(b"HELO c\r\n" + commands + b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n")
    return [line[:3] for line in said.splitlines()][2:]


def ask(checks: Checks, client: Client, recipients: int, sender: bytes = b"a@here.test") -> list[Reply | None]:
    """What ``client`` hears at each recipient of a message."""
    letter = Letter(0, sender)
    found = [checks.recipient(client, letter, b"x@far.test") for _ in range(recipients)]
    return [None if verdict is None else verdict.reply for verdict in found]


@contextlib.contextmanager
def session(door: Door) -> Iterator[Checks]:
    rules = Rules(str(door.base), {})
    checks = Checks((RelayLimit,), rules)
    yield checks
    checks.close()
    rules.close()


def limits(door: Door, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [BIN / "qmail-limits", *words], env={"QMAIL_HOME": str(door.base)}, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_a_relay_client_sends_what_it_may_and_the_log_the_counters_and_the_program_hear_of_it(door: Door) -> None:
    heard = door.base / "heard"
    heard.touch()
    heard.chmod(0o666)
    program = door.base / "alert"
    program.write_text(f'#!/bin/sh\nread x && exit; echo "$LIMITKEY $LIMITKIND $LIMITMOST/$LIMITSECONDS" >>{heard}\n')
    program.chmod(0o755)
    door.control(limitalert=str(program))
    door.environ["RELAYCLIENT"] = ""
    with stated(door.base) as process:
        assert send(door, 4) == [b"250", b"250", b"250", b"250", b"451", b"354", b"250", b"221"]
        assert b"limit=192.0.2.7:recipients=3/3600" in door.log.read_bytes()
        assert send(door, 1)[:3] == [b"250", b"451", b"503"]
        wait_for(heard.read_bytes, "the alert", DEADLINE_S)
        shown = (
            "192.0.2.7 1 of 2 messages in 3600 s\n",
            "192.0.2.7 3 of 3 recipients in 3600 s, 2 refused\n",
        )
        assert limits(door) == limits(door, "192.0.2.7") == (0, "".join(shown))
        assert limits(door, "nobody") == (1, "") and limits(door, "--reset", "nobody") == (1, "")
        assert limits(door, "--reset", "192.0.2.7") == (0, "")
        assert send(door, 1)[:2] == [b"250", b"250"]
        assert os.stat(f"/proc/{process.pid}").st_uid not in (0, os.stat(door.base).st_uid)
    assert heard.read_text() == "192.0.2.7 recipients 3/3600\n"
    assert b"qmail-stated: over limit: 192.0.2.7 recipients 3/3600\n" in (door.base / "stated.log").read_bytes()


def test_users_are_counted_by_name_wherever_they_are_and_messages_apart_from_recipients(door: Door) -> None:
    with stated(door.base), session(door) as checks, session(door) as other:
        ann, elsewhere = RELAY.known_as(b"Ann@here.test"), STRANGER.known_as(b"ann@HERE.test")
        assert ask(checks, ann, 1) == ask(other, elsewhere, 1, b"") == [None]
        (reply,) = ask(checks, ann, 1)
        assert reply is not None and reply.code == 451 and b"messages, 2 in 3600 seconds" in reply.text
        assert ask(checks, RELAY.known_as(b"bob@here.test"), 4)[2:] != [None, None]
        replies = ask(checks, RELAY.known_as(b"big@here.test"), 1001)
        assert replies[:1000] == [None] * 1000
        assert replies[1000] is not None and replies[1000].code == 550


def test_inbound_mail_and_bounces_of_a_relay_never_count_and_a_network_is_counted_as_one(door: Door) -> None:
    with stated(door.base), session(door) as checks:
        assert ask(checks, STRANGER, 9) == [None] * 9
        assert ask(checks, RELAY, 9, b"") == [None] * 9
        near = [Client(b"198.51.100.%d" % last, b"unknown", None, relay=b"") for last in (1, 2)]
        assert ask(checks, near[0], 3) == [None] * 3
        assert [reply is None for reply in ask(checks, near[1], 3)] == [True, True, False]
    assert limits(door)[0] == 111


def test_counters_survive_a_restart_and_a_torn_file_is_a_line_and_a_fresh_start(door: Door) -> None:
    door.environ["RELAYCLIENT"] = ""
    with stated(door.base):
        assert send(door, 3)[:4] == [b"250"] * 4
    with stated(door.base):
        assert send(door, 1)[:2] == [b"250", b"451"]
    (door.base / "run/state/state").write_bytes(b"pyqmail-state 1 5 torn")
    with stated(door.base):
        assert send(door, 1)[:2] == [b"250", b"250"]
    assert (
        b"alert: what was counted is forgotten: run/state/state: it is torn" in (door.base / "stated.log").read_bytes()
    )


def test_without_qmail_stated_there_is_no_limit_and_the_log_says_so_once(door: Door) -> None:
    door.environ["RELAYCLIENT"] = ""
    assert send(door, 5)[:6] == [b"250"] * 6
    assert door.log.read_bytes().count(b"qmail-stated does not answer") == 1


def test_one_that_hangs_holds_a_session_up_once(door: Door) -> None:
    with stated(door.base) as process, session(door) as checks:
        process.send_signal(signal.SIGSTOP)
        try:
            assert ask(checks, RELAY, 20) == [None] * 20
        finally:
            process.send_signal(signal.SIGCONT)


def test_a_connection_that_is_kept_is_made_again_when_the_service_is_another_one(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Control, "cache", FileCache())
    monkeypatch.setattr("pyqmail.incoming.stated._KEPT", kept := {})
    for used in range(2):
        with stated(door.base), session(door) as checks:
            assert [reply is None for reply in ask(checks, RELAY, 2)] == [True, not used]
    assert list(kept) == [str(door.base)]


def test_a_line_that_is_none_is_named_in_the_log(door: Door) -> None:
    door.control(relaylimits="ann:x\n:3\n")
    send(door, 0)
    assert b"control/relaylimits: line 1: ann:x" in door.log.read_bytes()


def test_sendmail_bs_is_not_counted_here_and_without_the_file_the_check_is_not_there(door: Door) -> None:
    environ = {b"TCPREMOTEINFO": b"sendmail-bs", b"TCPREMOTEIP": b"127.0.0.1"}
    assert not RelayLimit(Rules(str(door.base), environ)).active
    (door.base / "control/relaylimits").unlink()
    (kind,) = [kind for kind in CHECKS if kind.name == "relaylimits"]
    assert not isinstance(kind, type) and not kind.wanted(Rules(str(door.base), {}).names, frozenset())
