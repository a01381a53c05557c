"""What a user's mail says of its user, and whether qmail-remote may sign it."""

import base64
from collections.abc import Iterator

import pytest

from pyqmail.mailauth.canonical import parse_fields
from pyqmail.mailauth.vouching import vouched
from tests.incoming.test_security import Client
from tests.programs.door import Door, door_of


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        checker = made.base / "yes"
        checker.write_text("#!/bin/sh\nexit 0\n")
        checker.chmod(0o755)
        made.command = [made.command[0], str(checker), "true"]
        made.control(mailfromrules="ann@v.test:sales@shop.test")
        (made.base / "control/domainkeys").mkdir()
        made.environ |= {"SMTPAUTH": "!", "FORCETLS": "0", "FORCEAUTHMAILFROM": "1"}
        yield made


def sent(door: Door, header: bytes) -> bytes:
    """The message as the queue has it."""
    client = Client(door)
    client.reply()
    client.say(b"EHLO laptop")
    assert client.say(b"AUTH PLAIN " + base64.b64encode(b"\0ann@v.test\0pw")).startswith(b"235 ")
    for command in (b"MAIL FROM:<ann@v.test>", b"RCPT TO:<c@elsewhere.test>", b"DATA"):
        client.say(command)
    assert client.say(header + b"\r\n\r\ny\r\n.").startswith(b"250 ok")
    client.say(b"QUIT")
    client.end()
    return (door.base / "message").read_bytes()


@pytest.mark.parametrize(
    ("header", "bound", "author"),
    [
        pytest.param(b"From: Ann <ANN@v.test>", "1", b"v.test", id="the user's own"),
        pytest.param(b"From: sales@shop.test", "1", b"shop.test", id="by mailfromrules"),
        pytest.param(b"From: bob@v.test", "1", b"", id="another's"),
        pytest.param(b"From: ann@v.test, bob@v.test", "1", b"", id="two"),
        pytest.param(b"From: ann@v.test\r\nFrom: ann@v.test", "1", b"", id="twice"),
        pytest.param(b"Subject: x", "1", b"", id="nobody's"),
        pytest.param(b"From: bob@v.test", "0", b"v.test", id="another's, where nobody is bound"),
    ],
)
def test_a_from_that_the_user_may_not_use_is_not_vouched_for(
    door: Door, header: bytes, bound: str, author: bytes
) -> None:
    door.environ["FORCEAUTHMAILFROM"] = bound
    text = sent(door, header)
    results = b"Authentication-Results: mx.test;\n\tauth=pass smtp.auth=ann@v.test"
    assert text.startswith(results + (b" policy.from=" + author if author else b"") + b"\nReceived: ")
    fields = parse_fields(text.partition(b"\n\n")[0] + b"\n")
    for domain in (b"v.test", b"shop.test"):
        assert vouched(fields, domain, b"mx.test", entered=True) is (domain == author)


def test_the_user_is_hidden_where_the_client_is_and_what_claims_to_be_ours_goes(door: Door) -> None:
    door.environ["HIDECLIENT"] = "1"
    text = sent(door, b"Authentication-Results: MX.test; auth=pass policy.from=bank.test\r\nFrom: bob@v.test")
    assert text.startswith(b"Authentication-Results: mx.test;\n\tauth=pass\nReceived: from client (hidden)\n")
    assert text.count(b"Authentication-Results") == 1


def test_without_the_files_nothing_is_added(door: Door) -> None:
    (door.base / "control/domainkeys").rmdir()
    assert sent(door, b"From: ann@v.test").startswith(b"Received: ")
