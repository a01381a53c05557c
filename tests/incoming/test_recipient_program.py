"""$RCPTCHECK: what a program that is asked about recipients can say, and what happens when it fails."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.incoming.recipient_program import run_program
from tests.incoming.test_lists import MAIL, leave, rcpts
from tests.incoming.test_security import Client
from tests.programs.door import Door, door_of


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        yield made


def script(base: Path, text: str) -> str:
    path = base / "rcptcheck"
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)
    return str(path)


def reply(door: Door, text: str) -> bytes:
    """The reply to RCPT where the program does ``text``."""
    door.environ["RCPTCHECK"] = script(door.base, text)
    client = Client(door)
    client.reply()
    client.say(b"HELO c")
    client.say(MAIL)
    said = client.say(rcpts("bob")[0])
    leave(client)
    return said


NOBODY = b"550 sorry, no mailbox here by that name (#5.1.1)\r\n"
LATER = b"451 unable to verify the recipient at the moment (#4.3.0)\r\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("exit 0", b"250 ok\r\n", id="it accepts"),
        pytest.param("exit 100", NOBODY, id="it refuses"),
        pytest.param("exit 111", LATER, id="it cannot know yet"),
        pytest.param("exit 112", b"250 ok\r\n", id="it has no opinion"),
        pytest.param("exit 113", b"421 you have exceeded your messaging limits (#4.7.0)\r\n", id="over a limit"),
        pytest.param("echo '552 full' >&4; exit 100", b"552 full\r\n", id="a reply of its own"),
        pytest.param("printf '550 a\\001\\r\\n250 ok\\r\\n' >&4; exit 100", b"550 a?\r\n", id="one line of it"),
        pytest.param("echo '250 ok' >&4; exit 100", NOBODY, id="but no acceptance"),
        pytest.param("kill -9 $$", LATER, id="it is killed"),
        pytest.param("exit 120", LATER, id="it cannot run"),
        pytest.param("echo noise; exit 0", b"250 ok\r\n", id="what it prints is the log's"),
        pytest.param(
            '[ "$SENDER/$RECIPIENT/$HELO/$RCPTHOSTS/$USE_FD4" = joe@spam.test/bob@here.test/c/1/1 ] || exit 100',
            b"250 ok\r\n",
            id="what it is told",
        ),
    ],
)
def test_what_the_client_hears(door: Door, text: str, said: bytes) -> None:
    assert reply(door, text) == said


def test_a_program_that_is_missing_is_for_now(door: Door) -> None:
    reply(door, "exit 0")
    door.environ["RCPTCHECK"] = "/nowhere"
    client = Client(door)
    client.reply()
    client.say(MAIL)
    assert client.say(rcpts("bob")[0]) == LATER
    leave(client)


@pytest.mark.parametrize(("all_of_them", "said"), [("0", b"250 ok\r\n"), ("1", NOBODY)])
def test_relay_clients_are_asked_about_on_request(door: Door, all_of_them: str, said: bytes) -> None:
    door.environ |= {"RELAYCLIENT": "", "RCPTCHECKRELAYCLIENT": all_of_them}
    assert reply(door, "exit 100") == said


def test_one_that_does_not_end_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    began = time.monotonic()
    program = script(tmp_path, "echo '550 x' >&4; sleep 60 & sleep 60").encode()
    assert run_program([program], {b"PATH": b"/usr/bin:/bin"}, within_s=0.5)[0] is None
    assert time.monotonic() - began < 20


def test_one_that_writes_without_end_is_not_waited_for(tmp_path: Path) -> None:
    program = script(tmp_path, "yes 550 >&4; exit 100").encode()
    code, text = run_program([program], {b"PATH": b"/usr/bin:/bin"}, within_s=1)
    assert code in (None, 100) and len(text) <= 65536
