"""Users send as themselves, and in their own From field; and what Received shows of them."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.control import Control
from pyqmail.incoming.holding import Holding
from pyqmail.incoming.own_sender import HEADER_MAX, from_addresses, may_use
from tests.incoming.test_security import Client
from tests.programs.door import Door, door_of


@pytest.fixture
def control(tmp_path: Path) -> Control:
    (tmp_path / "control").mkdir()
    for name, text in (("me", "mx.test"), ("locals", "Here.test"), ("mailfromrules", RULES)):
        (tmp_path / "control" / name).write_text(text + "\n")
    return Control(str(tmp_path))


RULES = "# who : what\nann: Sales@shop.test\nbob@v.test:@v.test\nboss:*\n*:noreply@here.test"


@pytest.mark.parametrize(
    ("user", "address", "may"),
    [
        (b"ann@v.test", b"ANN@V.test", True),
        (b"ann@v.test", b"ann-x@v.test", False),
        (b"ann@v.test", b"ann@here.test", False),
        (b"ann", b"ann@here.test", True),
        (b"Ann", b"ann@mx.test", True),
        (b"ann", b"ann-list@here.test", True),
        (b"ann", b"anna@here.test", False),
        (b"ann", b"ann@elsewhere.test", False),
        (b"ann", b"ann", True),
        (b"ann", b"sales@shop.test", True),
        (b"ann", b"sale@shop.test", False),
        (b"eve", b"sales@shop.test", False),
        (b"bob@v.test", b"any@v.test", True),
        (b"bob@v.test", b"any@v.test.evil", False),
        (b"boss", b"any@where", True),
        (b"eve", b"noreply@here.test", True),
    ],
)
def test_who_may_use_which_sender(control: Control, user: bytes, address: bytes, may: bool) -> None:
    assert may_use(control, user, address) is may


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"From: a@b\n\nFrom: body@c\n", [b"a@b"]),
        (b"Subject: x\n\ny", []),
        (b"from :\n A <a@b>,\n\tB <c@d>\n\n", [b"a@b", b"c@d"]),
        (b"From: a@b\nFROM: c@d\n\n", [None, b"a@b", b"c@d"]),
        (b"From: nobody\n at all\n\n", [b"nobody", b"at", b"all"]),
        (b"From:\n\n", [None]),
        (b"From: a@b\nno field\nFrom: c@d\n\n", [None, b"a@b", b"c@d"]),
        (b"\nFrom: a@b\n", []),
        (b"From: a@b", [b"a@b"]),
        (b"x: " + b"y" * (HEADER_MAX + 1), [None]),
    ],
)
def test_what_the_from_field_says(tmp_path: Path, header: bytes, found: list[bytes | None]) -> None:
    (tmp_path / "run/incoming").mkdir(parents=True)
    held = Holding(str(tmp_path))
    held.write(header)
    addresses = list(from_addresses(held))
    held.close()
    assert addresses[:1] == found[:1] and (None in addresses) is (None in found)
    assert [each for each in addresses if each is not None] == [each for each in found if each is not None]


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        checker = made.base / "yes"
        checker.write_text("#!/bin/sh\nexit 0\n")
        checker.chmod(0o755)
        made.command = [made.command[0], str(checker), "true"]
        made.control(mailfromrules="ann@v.test:sales@v.test")
        made.environ |= {"SMTPAUTH": "!", "FORCETLS": "0", "FORCEAUTHMAILFROM": "1"}
        yield made


def logged_in(door: Door) -> Client:
    client = Client(door)
    client.reply()
    client.say(b"EHLO laptop")
    assert client.say(b"AUTH PLAIN " + base64.b64encode(b"\0ann@v.test\0pw")).startswith(b"235 ")
    return client


@pytest.mark.parametrize(
    ("sender", "reply"),
    [
        (b"<ann@v.test>", b"250 ok\r\n"),
        (b"<sales@v.test>", b"250 ok\r\n"),
        (b"<>", b"250 ok\r\n"),
        (b"<bob@v.test>", b"553 sorry, you may not send as that sender (#5.7.1)\r\n"),
    ],
)
def test_the_sender_is_the_users(door: Door, sender: bytes, reply: bytes) -> None:
    client = logged_in(door)
    assert client.say(b"MAIL FROM:" + sender) == reply
    client.say(b"QUIT")
    assert client.end()[2].count("reason=553_") == reply.count(b"553 ")


def test_without_the_variable_nobody_is_bound(door: Door) -> None:
    door.environ["FORCEAUTHMAILFROM"] = "0"
    assert logged_in(door).say(b"MAIL FROM:<bob@v.test>") == b"250 ok\r\n"


@pytest.mark.parametrize(("author", "code"), [(b"Ann <ann@v.test>", b"250 "), (b"Bob <bob@v.test>", b"550 ")])
def test_so_is_the_from_field_on_request(door: Door, author: bytes, code: bytes) -> None:
    door.environ["FORCEAUTHFROM"] = "1"
    client = logged_in(door)
    for command in (b"MAIL FROM:<ann@v.test>", b"RCPT TO:<c@elsewhere.test>"):
        client.say(command)
    client.say(b"DATA")
    assert client.say(b"From: " + author + b"\r\n\r\ny\r\n.").startswith(code)
    assert (door.base / "envelope").exists() is (code == b"250 ")


@pytest.mark.parametrize(
    ("hide", "received"),
    [
        ("1", b"Received: from client (hidden)\n  by mx.test with ESMTPA; "),
        ("0", b"Received: from unknown (HELO laptop) (ann@v.test@192.0.2.7)\n  by mx.test with ESMTPA; "),
    ],
)
def test_what_received_shows_and_what_is_added(door: Door, hide: str, received: bytes) -> None:
    door.environ |= {"HIDECLIENT": hide, "COMPLETEHEADER": "1"}
    client = logged_in(door)
    for command in (b"MAIL FROM:<ann@v.test>", b"RCPT TO:<c@elsewhere.test>", b"DATA", b"Subject: x\r\n\r\ny\r\n."):
        client.say(command)
    message = (door.base / "message").read_bytes()
    assert message.startswith(received)
    assert b"\nDate: " in message and b"\nMessage-ID: <" in message
    log = client.say(b"QUIT") and client.end()[2]
    assert "ip=192.0.2.7 helo=laptop" in log
