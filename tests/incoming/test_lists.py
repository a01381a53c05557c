"""The lists of an admin and the limits on recipients, as a session meets them."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.control import Control, ControlUnreadable
from pyqmail.formats.cdb import write_cdb
from pyqmail.incoming.check import Rules
from pyqmail.incoming.client import Client as Peer
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.lists import AddressList, BadRecipient, BadSender, ValidRecipient, is_valid
from pyqmail.incoming.recipients_file import ListedRecipient
from pyqmail.system.file_cache import FileCache
from tests.incoming.test_security import Client
from tests.programs.door import BIN, Door, door_of


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        yield made


def replies(door: Door, *commands: bytes) -> list[bytes]:
    """What each command is answered with."""
    client = Client(door)
    client.reply()
    try:
        return [client.say(command)[:3] for command in commands]
    finally:
        leave(client)


def leave(client: Client) -> tuple[bytes, int, str]:
    """QUIT, if it is not over yet; what is left of the session."""
    with contextlib.suppress(OSError):
        client.sock.sendall(b"QUIT\r\n")
    return client.end()


def rcpts(*names: str) -> list[bytes]:
    return [b"RCPT TO:<%b@here.test>" % name.encode() for name in names]


MAIL = b"MAIL FROM:<joe@spam.test>"


@pytest.mark.parametrize("relay", [False, True], ids=["a stranger", "a relay client"])
@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("badhelo", r"!\.", "list=badhelo:!\\."),
        ("badmailfrom", r"@[a-z]*\.test$", "list=badmailfrom:@[a-z]*\\.test$"),
        ("badrcptto", "bob@here.test", "reason=553_sorry,_that_recipient_is_in_my_badrcptto_list_(#5.7.1)"),
    ],
)
@pytest.mark.parametrize("twin", ["", "norelay"])
def test_a_list_refuses_and_its_twin_only_strangers(
    door: Door, name: str, line: str, says: str, twin: str, relay: bool
) -> None:
    door.control(**{name + twin: line})
    if relay:
        door.environ["RELAYCLIENT"] = ""
    refused = not (twin and relay)
    got = replies(door, b"HELO nodot", MAIL, *rcpts("bob"))
    assert got == [b"250", b"250", b"553" if refused else b"250"]
    assert (says.replace(f"{name}:", f"{name}{twin}:") in door.log.read_text()) is refused


def test_a_list_for_strangers_costs_a_client_that_may_relay_nothing(door: Door) -> None:
    door.control(badmailfromnorelay="@spam.test")
    (door.base / "control/badrcpttonorelay.cdb").write_bytes(b"torn")
    rules = Rules(str(door.base), {})
    checks = [BadSender(rules), BadRecipient(rules)]
    letter = Letter(0, b"joe@spam.test")
    relay, stranger = (Peer(b"192.0.2.7", b"unknown", None, relay=may) for may in (b"", None))
    assert [check.active for check in checks] == [True, True]
    assert checks[0].sender(relay, letter) is None and checks[1].recipient(relay, letter, b"x@y.test") is None
    assert checks[0].sender(stranger, letter) is not None
    with pytest.raises(ControlUnreadable):
        checks[1].recipient(stranger, letter, b"x@y.test")
    for check in checks:
        check.close()


def test_a_broken_line_is_said_with_its_number_and_the_others_work(door: Door) -> None:
    door.control(badmailfrom="# ours\n(x\n^joe@")
    assert replies(door, MAIL, *rcpts("bob"))[1] == b"553"
    assert "alert: control/badmailfrom: line 2: (x: " in door.log.read_text()


def newlist(door: Door, name: str, lines: bytes) -> "subprocess.CompletedProcess[bytes]":
    environ = {"QMAIL_HOME": str(door.base), "PATH": os.environ["PATH"]}
    return subprocess.run([BIN / "qmail-newlist", name], input=lines, env=environ, capture_output=True, timeout=120)


def test_a_list_of_many_lines_is_a_database_and_an_expression_is_none(door: Door) -> None:
    assert newlist(door, "badmailfrom", b"# many\n@Spam.test\n" + b"x@y.test\n" * 1000).stderr == b""
    assert replies(door, MAIL, *rcpts("bob"))[1] == b"553"
    made = newlist(door, "badmailfrom", b"a@b\n^c\n")
    assert (made.returncode, made.stderr[:29]) == (111, b"qmail-newlist: fatal: line 2:")
    assert replies(door, MAIL, *rcpts("bob"))[1] == b"553"  # the old one stays
    (door.base / "control/badmailfrom.cdb").write_bytes(b"torn")
    assert replies(door, MAIL)[0] == b"421"
    assert "control/badmailfrom.cdb: damaged" in door.log.read_text()


@pytest.mark.parametrize("size", [1_000_000 if os.environ.get("PYQMAIL_TESTS_LONG") else 20_000])
def test_a_list_of_a_million_is_made_once_and_asked_in_microseconds(door: Door, size: int) -> None:
    assert newlist(door, "badrcptto", b"".join(b"user%d@here.test\n" % n for n in range(size))).returncode == 0
    known = AddressList(Rules(str(door.base), {}), "badrcptto")
    began = time.process_time()
    assert all(known.match(b"user%d@here.test" % n, ()) for n in range(0, size, size // 1000))
    assert time.process_time() - began < 1.0  # a thousand: far more than they take
    assert known.match(b"nobody@here.test", ()) is None
    known.close()


VALID = "joe@b.test\n-@b.test\n-sue@c.test\n@d.test\n-eve@d.test\n"


@pytest.mark.parametrize("database", [False, True], ids=["lines", "a database"])
@pytest.mark.parametrize(
    ("address", "valid"),
    [
        (b"JOE@b.test", True),
        (b"ann@B.test", False),
        (b"sue@c.test", False),
        (b"bob@c.test", True),
        (b"any@d.test", True),
        (b"eve@d.test", False),
        (b"any@e.test", True),
        (b"local", True),
    ],
)
def test_validrcptto(door: Door, database: bool, address: bytes, valid: bool) -> None:
    if database:
        assert newlist(door, "validrcptto", VALID.encode()).returncode == 0
    else:
        door.control(validrcptto=VALID)
    rules = Rules(str(door.base), {})
    check = ValidRecipient(rules)
    assert check.active
    assert is_valid(check._list, address) is valid
    check.close()


@pytest.mark.parametrize(
    ("address", "exists"),
    [
        (b"Bob@here.test", True),
        (b"eve@here.test", False),
        (b"list-2026-11@here.test", True),
        (b"bob@sub.here.test", False),
        (b"ann@plain.test", True),
        (b"ann@sub.plain.test", False),
        (b"sub@sub.plain.test", True),
        (b"ann@notplain.test", False),
        (b"yes@asked.test", True),
        (b"no@asked.test", False),
        (b"anybody@wild.test", True),
        (b"anybody@other.test", False),
        (b"local", True),
    ],
)
@pytest.mark.parametrize("passing", ["", "!*\n"], ids=["closed", "pass"])
def test_recipients_of_sqmail(door: Door, passing: str, address: bytes, exists: bool) -> None:
    program = door.base / "program"
    program.write_text("#!/bin/sh\ntr '\\0' '|' <&3 | grep -qx 'yes@asked.test|||'\n")
    program.chmod(0o755)
    (door.base / "users").mkdir()
    keys = [b":bob@here.test", b":list-@here.test", b":local@localhost"]
    write_cdb(str(door.base / "users/here.cdb"), [(key, b"") for key in keys])
    (door.base / "users/plain").write_text("Ann@plain.test\nsub@sub.plain.test\n")
    lines = f"@localhost:users/here.cdb\n@here.test:users/here.cdb\nplain.test:users/plain\nasked.test|{program}\n"
    door.control(recipients=lines + "!wild.test\n" + passing)
    check = ListedRecipient(Rules(str(door.base), {b"PATH": b"/usr/bin:/bin"}))
    assert check.active and check.has(address.lower()) is (exists or bool(passing))


@pytest.mark.parametrize(
    ("line", "code"),
    [("users/none.cdb", b"421"), ("here.test|exit111", b"451"), ("here.test|nowhere/none", b"451"), ("@x:y", b"550")],
)
def test_recipients_that_nobody_can_look_up_are_not_refused_for_good(door: Door, line: str, code: bytes) -> None:
    (door.base / "exit111").write_text("#!/bin/sh\necho nobody hears this\nexit 111\n")
    (door.base / "exit111").chmod(0o755)
    door.control(recipients=line.replace("exit111", str(door.base / "exit111")))
    assert replies(door, MAIL, *rcpts("bob")) == [b"250", code]
    door.environ["RELAYCLIENT"] = ""
    assert replies(door, MAIL, *rcpts("bob")) == [b"250", b"250"]


def test_maxrcpt_is_told_for_now_and_the_message_goes_to_the_others(door: Door) -> None:
    door.control(maxrcpt="2")
    assert replies(door, MAIL, *rcpts("a", "b", "c"), b"RSET", MAIL, *rcpts("d")) == [
        b"250", b"250", b"250", b"452", b"250", b"250", b"250"]  # fmt: skip
    door.environ["DISABLE_MAXRCPT"] = "1"
    assert replies(door, MAIL, *rcpts("a", "b", "c"))[-1] == b"250"


def test_brtlimit_ends_the_session(door: Door) -> None:
    door.control(brtlimit="2", badrcptto="@here.test", rcpthosts="here.test\nok.test")
    client = Client(door)
    client.reply()
    client.say(MAIL)
    got = [client.say(command)[:3] for command in (*rcpts("a"), b"RCPT TO:<x@ok.test>", *rcpts("b", "c"))]
    assert got == [b"553", b"250", b"553", b"421"]
    assert client.end()[:2] == (b"", 1)


def test_tarpit_lets_recipients_wait(door: Door) -> None:
    door.control(tarpitcount="1", tarpitdelay="2")
    client = Client(door)
    client.reply()
    client.say(MAIL)
    began = time.monotonic()
    client.say(rcpts("a")[0])
    assert time.monotonic() - began < 1.9
    client.say(rcpts("b")[0])
    assert time.monotonic() - began >= 2.0
    leave(client)


def test_a_directory_in_the_place_of_a_list_is_no_missing_list(door: Door) -> None:
    (door.base / "control/badrcptto").mkdir()
    assert door.talk(b"QUIT\r\n") == (b"421 unable to read controls (#4.3.0)\r\n", 1)
    with pytest.raises(ControlUnreadable):
        AddressList(Rules(str(door.base), {}), "badrcptto")


def test_a_list_that_comes_later_is_seen_by_a_process_that_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "control").mkdir()
    monkeypatch.setattr(Control, "cache", FileCache())
    os.utime(tmp_path / "control", (1, 1))
    for _ in range(2):
        assert not Rules(str(tmp_path), {}).has("badrcptto")
    (tmp_path / "control/badrcptto").write_text("a@b\n")
    assert Rules(str(tmp_path), {}).has("badrcptto")
