"""qmail-rspamd between qmail-smtpd and a queue program: with Debian's rspamd, and with one that says what is told."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.intake.rspamd import NoAnswer, kept, parse_answer, without
from tests import rspamd as debian
from tests.programs.door import BIN, DEADLINE_S, Door, door_of
from tests.waiting import wait_for


class Rspamd:
    """Answers one question after another with ``answer``, and keeps the last request."""

    def __init__(self) -> None:
        self.answer = b""
        self.request = b""
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def says(self, action: str, **more: object) -> None:
        self.answer = (
            b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"
            + json.dumps({"action": action, "score": 1.0, **more}).encode()
        )

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.sock.accept()
            except OSError:
                return
            with peer:
                got = b""
                while b"\r\n\r\n" not in got:
                    got += peer.recv(65536)
                head, _, body = got.partition(b"\r\n\r\n")
                size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                while len(body) < size:
                    body += peer.recv(65536)
                self.request = head + b"\r\n\r\n" + body
                peer.sendall(self.answer)


@pytest.fixture
def rspamd() -> Iterator[Rspamd]:
    made = Rspamd()
    yield made
    made.sock.close()


@pytest.fixture
def door(rspamd: Rspamd) -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        made.environ |= {"RSPAMDQUEUE": made.environ["QMAILQUEUE"], "QMAILQUEUE": str(BIN / "qmail-rspamd")}
        made.control(rspamd=f"127.0.0.1:{rspamd.port}")
        yield made


MESSAGE = b"Subject: one\r\nX-Old: a\r\n b\r\nX-Old: c\r\n\r\nSubject: body\r\n"


def session(message: bytes) -> bytes:
    envelope = b"MAIL FROM:<joe@x.test>\r\nRCPT TO:<bob@here.test>\r\nRCPT TO:<eve@here.test>\r\n"
    return envelope + b"DATA\r\n" + message + b".\r\nQUIT\r\n"


def reply(door: Door, message: bytes = MESSAGE) -> bytes:
    """What the client hears after the dot."""
    return door.talk(session(message))[0].split(b"\r\n")[5]


def queued(door: Door) -> bytes:
    return (door.base / "message").read_bytes()


def test_a_message_that_may_pass_is_queued_as_it_is(door: Door, rspamd: Rspamd) -> None:
    rspamd.says("no action")
    door.environ["TCPREMOTEHOST"] = "mx.x.test\r\nPass: all"
    assert reply(door).startswith(b"250 ok ")
    head, _, body = rspamd.request.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[:6] == [
        b"POST /checkv2 HTTP/1.0",
        b"From: joe@x.test",
        b"Rcpt: bob@here.test",
        b"Rcpt: eve@here.test",
        b"Ip: 192.0.2.7",
        b"Hostname: mx.x.test__Pass:_all".replace(b"Pass:_all", b"Pass: all"),
    ]
    assert queued(door) == body and body.endswith(MESSAGE.replace(b"\r\n", b"\n"))
    assert door.envelope() == b"Fjoe@x.test\0Tbob@here.test\0Teve@here.test\0\0"


@pytest.mark.parametrize(
    ("action", "more", "said"),
    [
        ("reject", {}, b"554 spam message rejected (#5.7.1)"),
        ("reject", {"messages": {"smtp_message": "no\r\n250 ok"}}, b"554 no__250 ok (#5.7.1)"),
        ("discard", {}, b"554 spam message rejected (#5.7.1)"),
        ("soft reject", {}, b"451 try again later (#4.7.1)"),
    ],
)
def test_what_it_refuses_is_not_queued(
    door: Door, rspamd: Rspamd, action: str, more: Mapping[str, object], said: bytes
) -> None:
    rspamd.says(action, **more)
    assert reply(door) == said
    assert not (door.base / "message").exists()


def test_fields_are_added_and_removed(door: Door, rspamd: Rspamd) -> None:
    rspamd.says(
        "rewrite subject",
        subject="*** one",
        milter={
            "add_headers": {"X-New": [{"value": "a\r\nb", "order": 0}, "c"], "bad name": "x", "X-Null": None},
            "remove_headers": {"x-old": 1, "X:Bad": 0, "Subject": "x"},
        },
    )
    assert reply(door).startswith(b"250 ok ")
    text = queued(door)
    assert text.startswith(b"X-New: a\n\tb\nX-New: c\nSubject: *** one\nReceived: ")
    assert text.endswith(b"X-Old: c\n\nSubject: body\n") and b"X-Old: a" not in text and b"Subject: one" not in text


def test_a_message_that_it_marks_has_a_field(door: Door, rspamd: Rspamd) -> None:
    rspamd.says("add header")
    assert reply(door).startswith(b"250 ok ")
    assert queued(door).startswith(b"X-Spam: Yes\nReceived: ")


AWAY = [
    pytest.param(b"", id="no answer"),
    pytest.param(b"HTTP/1.0 500 trouble\r\n\r\n", id="an error"),
    pytest.param(b"HTTP/1.0 200 OK\r\n\r\n{", id="no JSON"),
    pytest.param(b"HTTP/1.0 200 OK\r\n\r\n[1]", id="no action"),
    pytest.param(b"HTTP/1.0 200 OK\r\n\r\n" + b" " * 1100000, id="an answer without end"),
]


@pytest.mark.parametrize("answer", AWAY)
def test_nonsense_puts_mail_off(door: Door, rspamd: Rspamd, answer: bytes) -> None:
    rspamd.answer = answer
    assert reply(door) == b"451 spam check is not available at the moment (#4.3.0)"
    assert not (door.base / "message").exists()
    assert "qmail-rspamd: alert: " in door.log.read_text()


def test_while_it_is_away_mail_passes_where_the_admin_says_so(door: Door, rspamd: Rspamd) -> None:
    rspamd.sock.close()
    assert reply(door).startswith(b"451 ")
    door.control(rspamd=f"127.0.0.1:{rspamd.port}\npass")
    assert reply(door).startswith(b"250 ok ")
    assert "passes unchecked" in door.log.read_text()


def test_what_the_queue_program_refuses_reaches_the_client(door: Door, rspamd: Rspamd) -> None:
    rspamd.says("no action")
    door.queue("printf 'Dno room for you' >&6; exit 82")
    door.environ |= {"RSPAMDQUEUE": door.environ["QMAILQUEUE"], "QMAILQUEUE": str(BIN / "qmail-rspamd")}
    assert reply(door) == b"554 no room for you"


# What the message asks rspamd for, what the client hears, and how the queued message begins.
DEBIAN = [
    (b"", b"250 ok ", b"Received: "),
    (b"X-Action: greylist\r\n", b"250 ok ", b"Received: "),
    (b"X-Action: add header\r\n", b"250 ok ", b"X-Spam: Yes\nReceived: "),
    (b"X-Old: yes\r\n", b"250 ok ", b"X-New: yes\nReceived: "),
    (b"X-Action: soft reject\r\n", b"451 as told (#4.7.1)", None),
    (b"X-Action: reject\r\n", b"554 as told (#5.7.1)", None),
    (b"\r\n" + debian.GTUBE + b"\r\n", b"554 Gtube pattern (#5.7.1)", None),
]


def test_debians_rspamd_is_understood(door: Door) -> None:
    with debian.rspamd() as server:
        door.control(rspamd=f"127.0.0.1:{server.port}")
        for fields, said, begin in DEBIAN:
            (door.base / "message").unlink(missing_ok=True)
            assert reply(door, fields + b"Subject: one\r\n\r\nbody\r\n").startswith(said), fields
            assert (door.base / "message").exists() == (begin is not None), fields
            if begin is not None:
                assert queued(door).startswith(begin) and b"\nX-Old: " not in queued(door), fields


@pytest.mark.parametrize(("passes", "said"), [("", b"451 spam check is not "), ("\npass", b"250 ok ")])
def test_a_message_that_rspamd_dies_over_waits_or_passes_as_told(door: Door, passes: str, said: bytes) -> None:
    with debian.rspamd() as server:
        door.control(rspamd=f"127.0.0.1:{server.port}{passes}")
        server.stop()
        sock, process = door.start()
        with sock:
            sock.sendall(session(MESSAGE))
            wait_for(lambda: asked(server.port), "the question")
            server.kill()
            heard = b"".join(iter(lambda: sock.recv(65536), b""))
            process.wait(DEADLINE_S)
    assert heard.split(b"\r\n")[5].startswith(said)
    assert (door.base / "message").exists() == bool(passes)


def asked(port: int) -> bool:
    """Whether somebody is connected to a port of 127.0.0.1."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.parametrize(("envelope", "code"), [(b"Fa\0Tb\0", 91), (b"", 91)])
def test_a_message_whose_envelope_was_withheld_is_not_even_asked_about(
    tmp_path: Path, rspamd: Rspamd, envelope: bytes, code: int
) -> None:
    reading, writing = os.pipe()
    os.write(writing, envelope)
    os.close(writing)
    environ = {"QMAIL_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    words = [BIN / "qmail-rspamd"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=reading, env=environ, timeout=DEADLINE_S)
    os.close(reading)
    assert done.returncode == code and rspamd.request == b""


@given(st.binary(max_size=200))
def test_any_answer_is_an_action_or_none(data: bytes) -> None:
    for answer in (data, b"HTTP/1.1 200 OK\r\n\r\n" + data):
        try:
            parse_answer(answer)
        except NoAnswer:
            pass


@given(st.lists(st.sampled_from([b"A: 1\n", b" x\n", b"\n", b"B", b"a: 2\n"])))
def test_a_message_loses_nothing_but_the_fields_in_whatever_pieces_it_comes(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert b"".join(without(iter(pieces), {})) == whole
    assert b"".join(without(iter(pieces), {b"z": 0})) == whole
    assert b"".join(without(iter(pieces), {b"a": 0})) == b"".join(without(iter([whole]), {b"a": 0}))
    assert b"".join(kept(b"A: 1\n\tx\nB: 2\nA: 3\n", {b"a": 2})) == b"A: 1\n\tx\nB: 2\n"
