"""qmail-smtpd as a process on a real socket, with a recording queue program."""

import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUEUE = """#!/bin/sh
cat > {base}/message
cat <&1 > {base}/envelope
exit {code}
"""


class Door:
    """A home and one running session."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "control").mkdir()
        self.control(me="mx.test", rcpthosts="here.test", localiphost="here.test")
        self.environ = {"QMAIL_HOME": str(base), "TCPREMOTEIP": "192.0.2.7", "TCPLOCALHOST": "mx.test"}
        self.log = base / "log"

    def control(self, **files: str) -> None:
        for name, text in files.items():
            (self.base / "control" / name).write_text(text + "\n")

    def queue(self, code: int = 0) -> None:
        """Answer messages with exit ``code`` of a program that keeps what it gets."""
        path = self.base / "queue-program"
        path.write_text(QUEUE.format(base=self.base, code=code))
        path.chmod(0o755)
        self.environ["QMAILQUEUE"] = str(path)

    def talk(self, wire: bytes) -> tuple[bytes, int]:
        """Send ``wire``, close our side, and return all replies and the exit code."""
        ours, theirs = socket.socketpair()
        with self.log.open("wb") as log, theirs:
            process = subprocess.Popen(
                [ROOT / "bin" / "qmail-smtpd"], stdin=theirs, stdout=theirs, stderr=log, env=self.environ
            )
        with ours:
            ours.settimeout(30)
            ours.sendall(wire)
            ours.shutdown(socket.SHUT_WR)
            replies = b""
            while chunk := ours.recv(65536):
                replies += chunk
        return replies, process.wait(30)


@pytest.fixture
def door() -> Iterator[Door]:
    with tempfile.TemporaryDirectory(prefix="pyqmail-smtpd-") as base:
        yield Door(Path(base))


MESSAGE = b"HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@[127.0.0.1]>\r\nDATA\r\nSubject: x\r\n\r\n..y\r\n.\r\nQUIT\r\n"


def test_a_message_reaches_the_queue_with_its_received_line(door: Door) -> None:
    door.queue()
    replies, code = door.talk(MESSAGE)
    assert code == 0
    assert replies.startswith(b"220 mx.test ESMTP\r\n250 mx.test\r\n250 ok\r\n250 ok\r\n354 go ahead\r\n250 ok ")
    assert replies.endswith(b"221 mx.test\r\n")
    assert (door.base / "envelope").read_bytes() == b"Fa@b\0Tc@here.test\0\0"
    head, text = (door.base / "message").read_bytes().split(b" -0000\n", 1)
    assert re.fullmatch(
        rb"Received: from unknown \(HELO c\) \(192\.0\.2\.7\)\n"
        rb"  by mx\.test with SMTP; \d+ [A-Z][a-z]{2} \d{4} [\d:]{8}",
        head,
    )
    assert text == b"Subject: x\n\n.y\n"
    line = door.log.read_bytes()
    assert re.fullmatch(
        rb"qmail-smtpd: accepted ip=192\.0\.2\.7 helo=c from=<a@b> to=<c@here\.test> bytes=15 qp=\d+\n", line
    )


@pytest.mark.parametrize(
    ("code", "reply"),
    [
        (11, b"554 envelope address too long for qq (#5.1.3)\r\n"),
        (31, b"554 mail server permanently rejected message (#5.3.0)\r\n"),
        (53, b"451 qq write error or disk full (#4.3.0)\r\n"),
        (66, b"451 qq trouble creating files in queue (#4.3.0)\r\n"),
        (40, b"554 qq permanent problem (#5.3.0)\r\n"),
        (1, b"451 qq temporary problem (#4.3.0)\r\n"),
    ],
)
def test_the_queues_exit_code_is_the_reply(door: Door, code: int, reply: bytes) -> None:
    door.queue(code)
    replies, _ = door.talk(MESSAGE)
    assert reply in replies


@pytest.mark.parametrize(
    ("wire", "reply", "code"),
    [
        pytest.param(b"NOOP\n", b"250 ok\r\n", 1, id="a command may end in a bare LF, and EOF is exit 1"),
        pytest.param(
            MESSAGE.replace(b"x\r\n", b"x\n", 1),
            b"354 go ahead\r\n451 See https://cr.yp.to/docs/smtplf.html.\r\n",
            1,
            id="a bare LF in the text ends the session",
        ),
        pytest.param(MESSAGE[:-20], b"354 go ahead\r\n", 1, id="a client that goes away in its text"),
    ],
)
def test_ends(door: Door, wire: bytes, reply: bytes, code: int) -> None:
    door.queue()
    replies, ended = door.talk(wire)
    assert replies.endswith(reply) and ended == code
    assert not (door.base / "envelope").exists() or not (door.base / "envelope").read_bytes()


def test_a_message_over_databytes_is_refused_and_not_queued(door: Door) -> None:
    door.queue()
    door.control(databytes="15")
    assert re.search(rb"250 ok \d+ qp \d+\r\n", door.talk(MESSAGE)[0])
    door.queue(54)
    door.control(databytes="14")
    replies, code = door.talk(MESSAGE)
    assert b"552 sorry, that message size exceeds my databytes limit (#5.3.4)\r\n" in replies and code == 0
    assert (door.base / "envelope").read_bytes() == b""


def test_a_hundred_hops_are_a_loop(door: Door) -> None:
    door.queue(54)
    wire = MESSAGE.replace(b"Subject: x\r\n", b"Received: x\r\n" * 100)
    assert b"554 too many hops, this message is looping (#5.4.6)\r\n" in door.talk(wire)[0]


def test_without_a_name_it_says_421(door: Door) -> None:
    os.unlink(door.base / "control" / "me")
    assert door.talk(b"") == (b"421 unable to read controls (#4.3.0)\r\n", 1)


def test_a_silent_client_is_told_and_dropped(door: Door) -> None:
    door.control(timeoutsmtpd="0")
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([ROOT / "bin" / "qmail-smtpd"], stdin=theirs, stdout=theirs, env=door.environ)
    with ours:
        ours.settimeout(30)
        heard = b""
        while chunk := ours.recv(4096):
            heard += chunk
    assert heard == b"220 mx.test ESMTP\r\n451 timeout (#4.4.2)\r\n" and process.wait(30) == 1
