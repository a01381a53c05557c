"""What ends a session, and what happens before its greeting."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import client_context, self_signed
from tests.incoming.test_security import Client, install
from tests.programs.door import Door, door_of


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        yield made


def test_the_greeting_waits_and_clients_that_wait_are_served(door: Door) -> None:
    door.environ |= {"SMTPD_GREETDELAY": "1", "DROP_PRE_GREET": "1"}
    client = Client(door)
    began = time.monotonic()
    assert client.reply() == b"220 mx.test ESMTP\r\n"
    assert time.monotonic() - began >= 0.9
    assert client.say(b"NOOP") == b"250 ok\r\n"
    client.say(b"QUIT")
    assert client.end()[:2] == (b"", 0)


def test_who_talks_early_is_sent_away_with_a_line(door: Door) -> None:
    door.environ |= {"SMTPD_GREETDELAY": "60", "DROP_PRE_GREET": "1"}
    client = Client(door)
    assert client.say(b"EHLO bot") == b"554 you talk before you are greeted (#5.7.1)\r\n"
    rest, code, log = client.end()
    assert (rest, code) == (b"", 1)
    assert log == (
        "qmail-smtpd: refused ip=192.0.2.7 helo= from=<> to= reason=554_you_talk_before_you_are_greeted_(#5.7.1)\n"
    )


def test_without_drop_pre_greet_what_was_said_early_is_answered(door: Door) -> None:
    door.environ["SMTPD_GREETDELAY"] = "1"
    client = Client(door)
    assert client.say(b"NOOP") == b"220 mx.test ESMTP\r\n"
    assert client.reply() == b"250 ok\r\n"


def test_relay_clients_do_not_wait(door: Door) -> None:
    door.environ |= {"SMTPD_GREETDELAY": "60", "DROP_PRE_GREET": "1", "RELAYCLIENT": ""}
    assert Client(door).say(b"NOOP") == b"220 mx.test ESMTP\r\n"


@pytest.mark.parametrize(("line", "waits"), [("192.0.2.0/24", False), (".x.test", False), ("198.51.100.7", True)])
def test_who_is_listed_does_not_wait(door: Door, line: str, waits: bool) -> None:
    door.environ |= {"SMTPD_GREETDELAY": "60", "DROP_PRE_GREET": "1", "TCPREMOTEHOST": "mx.x.test"}
    door.control(**{"greetdelay.white": line})
    assert Client(door).say(b"NOOP").startswith(b"554 " if waits else b"220 ")


def test_under_smtps_the_wait_comes_after_the_handshake(door: Door, tmp_path: Path) -> None:
    pem = self_signed(tmp_path)
    install(door, pem)
    door.environ |= {"SMTPS": "1", "SMTPD_GREETDELAY": "60", "DROP_PRE_GREET": "1"}
    client = Client(door)
    client.secure(client_context(pem))
    assert client.say(b"EHLO bot").startswith(b"554 ")
    door.environ["SMTPD_GREETDELAY"] = "1"
    client = Client(door)
    client.secure(client_context(pem))
    assert client.reply() == b"220 mx.test ESMTP\r\n"


def test_so_many_errors_end_a_session(door: Door) -> None:
    door.environ["SMTPD_ERRORLIMIT"] = "3"
    client = Client(door)
    client.reply()
    assert client.say(b"WHAT") == client.say(b"WHAT") == b"502 unimplemented (#5.5.1)\r\n"
    assert client.say(b"NOOP") == b"250 ok\r\n"
    assert client.say(b"RCPT TO:<a@b>") == b"503 MAIL first (#5.5.1)\r\n"
    assert client.reply() == b"421 too many errors (#4.7.0)\r\n"
    assert client.end()[:2] == (b"", 1)


def test_without_a_limit_any_number_of_errors_is_answered(door: Door) -> None:
    client = Client(door)
    client.reply()
    assert {client.say(b"WHAT") for _ in range(200)} == {b"502 unimplemented (#5.5.1)\r\n"}


@pytest.mark.parametrize("tls", [False, True], ids=["in clear", "under TLS"])
def test_a_session_that_takes_its_time_ends(door: Door, tls: bool, tmp_path: Path) -> None:
    door.environ["SMTPD_SESSIONLIMIT"] = "2"
    pem = self_signed(tmp_path)
    install(door, pem)
    client = Client(door)
    client.reply()
    if tls:
        client.say(b"STARTTLS")
        client.secure(client_context(pem))
    began = time.monotonic()
    said = b"250 ok\r\n"
    while said == b"250 ok\r\n" and time.monotonic() - began < 20:
        try:
            said = client.say(b"NOOP")
        except OSError:  # it has hung up meanwhile
            said = client.reply()
        time.sleep(0.05)  # a client that keeps within every other limit
    assert said == b"451 timeout (#4.4.2)\r\n"
    rest, code, _ = client.end()
    assert rest in (b"", b"(broken)") and code == 1  # a last NOOP may have come after it had closed


def test_a_message_that_drips_is_not_taken(door: Door) -> None:
    door.environ["SMTPD_SESSIONLIMIT"] = "2"
    client = Client(door)
    client.reply()
    for command in (b"MAIL FROM:<a@b>", b"RCPT TO:<c@here.test>", b"DATA"):
        client.say(command)
    client.sock.settimeout(0.05)
    began = time.monotonic()
    while time.monotonic() - began < 20:
        with contextlib.suppress(OSError):  # it may have hung up since: what it said is there
            client.sock.send(b"x")
        try:
            assert client.sock.recv(100) == b"451 timeout (#4.4.2)\r\n"
            break
        except TimeoutError:
            continue
    client.sock.settimeout(30)
    assert client.process.wait(30) == 1
    assert not (door.base / "envelope").exists() or door.envelope() == b""
