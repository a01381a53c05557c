"""control/shadow with Debian's PostgreSQL: each message has a copy before it is accepted, and loses it with its end."""

import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from pyqmail.exits import QueueExit
from pyqmail.protocol import shadow
from tests.integration.mailhost import hold_deliveries
from tests.postgresql import PASSWORD
from tests.shadow.conftest import USER
from tests.shadow.node import Node
from tests.waiting import wait_for

HELD = f"{USER}-hold@example.test".encode()
PLAIN = f"{USER}@example.test".encode()


def delivered(maildir: Path) -> list[bytes]:
    return [path.read_bytes() for path in (maildir / "new").iterdir()]


def let_go(gate: Path) -> None:
    with open(gate, "w"):
        pass


def test_a_message_has_a_copy_from_its_acceptance_to_its_end(host: Node, maildir: Path) -> None:
    gate, started = hold_deliveries(USER)
    large = b"Subject: large\n\n" + os.urandom(300_000).hex().encode() + b"\n"
    assert host.queue(b"Subject: held\n\nfirst\n", HELD) == 0
    started.read_text()
    assert "first" in host.database.run("SELECT encode(message, 'escape') FROM shadow_message")
    (envelope,) = host.database.run("SELECT encode(envelope, 'escape') FROM shadow_message")
    assert envelope.endswith(f"T{HELD.decode()}\\000")
    let_go(gate)
    wait_for(lambda: not host.copies(), "the end of the copy")
    assert len(delivered(maildir)) == 1
    assert host.queue(large, HELD) == 0
    started.read_text()
    (size,) = host.database.run(
        "SELECT length(message) + (SELECT sum(length(data)) FROM shadow_part) FROM shadow_message"
    )
    (file,) = [path for path in (host.home / "queue/mess").rglob("*") if path.is_file()]
    assert int(size) == file.stat().st_size
    let_go(gate)
    wait_for(lambda: not host.copies(), "the end of the copy")
    assert host.database.run("SELECT count(*) FROM shadow_part") == ["0"]
    assert max(map(len, delivered(maildir))) > len(large)


def test_without_the_database_nothing_is_accepted_and_with_it_again_everything(host: Node, maildir: Path) -> None:
    host.database.stop()
    assert host.queue(b"Subject: refused\n\n", PLAIN) == QueueExit.NEXT_HOP_TEMPORARY
    assert host.queued() == 0
    host.database.start()
    wait_for(lambda: host.queue(b"Subject: taken\n\n", PLAIN) == 0, "a connection made again")
    wait_for(lambda: delivered(maildir) and not host.copies(), "the delivery")
    assert all(b"Subject: taken" in message for message in delivered(maildir))


def test_what_ends_without_the_database_loses_its_copy_later(host: Node, maildir: Path) -> None:
    gate, started = hold_deliveries(USER)
    assert host.queue(b"Subject: held\n\n", HELD) == 0
    started.read_text()
    host.database.stop()
    os.kill(host.shadowd(), signal.SIGKILL)
    let_go(gate)
    wait_for(lambda: host.queued() == 0, "the end of the message")
    host.database.start()
    wait_for(lambda: not host.copies(), "the end of its copy")


def test_who_dies_before_the_message_is_in_the_queue_leaves_no_copy(host: Node, maildir: Path) -> None:
    def ask() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(60)
        sock.connect(str(host.home) + shadow.SOCKET)
        with open("/etc/passwd", "rb") as message, open("/etc/group", "rb") as envelope:
            files = [message.fileno(), envelope.fileno()]
            socket.send_fds(sock, [shadow.format_record(shadow.COPY, identity, b"")], files)
        return sock

    for word in (None, shadow.WITHDRAW, shadow.KEPT):
        identity = os.urandom(16).hex().encode()
        with ask() as sock:
            assert shadow.parse_record(sock.recv(shadow.RECORD_MAX)) == [shadow.OK, identity]
            assert host.copies() == [str(uuid.UUID(identity.decode()))]
            if word is not None:
                sock.send(shadow.format_record(word, identity))
        if word == shadow.KEPT:
            assert host.queue(b"Subject: later\n\n", PLAIN) == 0
            wait_for(lambda: len(host.copies()) == 1, "the end of the later message's copy")
            host.database.run("DELETE FROM shadow_message")
        else:
            wait_for(lambda: not host.copies(), "the withdrawal")


@pytest.mark.parametrize(
    ("user", "word", "answered"),
    [
        ("qmailq", shadow.COPY, True), ("qmailq", shadow.ENDED, False), ("qmails", shadow.ENDED, True),
        ("qmails", shadow.WITHDRAW, False), ("qmaild", shadow.ENDED, False), ("qmailr", shadow.ENDED, False),
        ("nobody", shadow.ENDED, False), ("alias", shadow.COPY, False),
    ],
)  # fmt: skip
def test_only_the_queue_and_qmail_send_are_answered(host: Node, user: str, word: bytes, answered: bool) -> None:
    identity = os.urandom(16).hex().encode()
    record = shadow.format_record(word, identity, *([b""] if word == shadow.COPY else []))
    script = (
        "import socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "sock.settimeout(60)\n"
        f"sock.connect({str(host.home) + shadow.SOCKET!r})\n"
        "with open('/etc/passwd', 'rb') as file:\n"
        "    try:\n"
        f"        socket.send_fds(sock, [{record!r}], [file.fileno()] * 2)\n"
        "        sys.exit(0 if sock.recv(100) else 1)\n"
        "    except (BrokenPipeError, ConnectionResetError):\n"
        "        sys.exit(1)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], user=user, group="nogroup", cwd="/")
    assert (done.returncode == 0) is answered
    wait_for(lambda: not host.copies(), "the withdrawal")


def test_whoever_delivers_is_told_the_margin_before_the_lease(host: Node) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(60)
        sock.connect(str(host.home) + shadow.SOCKET)
        sock.send(shadow.format_record(shadow.SERVE))
        said: list[list[bytes]] = []
        while not said or said[-1][0] != shadow.LEASE:
            said.append(shadow.parse_record(sock.recv(shadow.RECORD_MAX)))
    assert [words for words in said if words[0] == shadow.MARGIN] == [[shadow.MARGIN, b"60"]]


def test_the_password_is_nowhere_that_others_can_look(host: Node) -> None:
    pid = host.shadowd()
    seen = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert not any(PASSWORD.encode() in text for text in (*seen, host.log.read_bytes()))


def test_with_shadowmax_bytes_stored_no_more_is_copied(host: Node, maildir: Path) -> None:
    host.write("shadowmax", "10\n")
    try:
        before = host.shadowd()
        os.kill(before, signal.SIGTERM)
        wait_for(lambda: host.shadowd() not in (0, before), "another qmail-shadowd")
        said = b"no more is copied: control/shadowmax is 10 bytes"  # it may not have a lease yet
        wait_for(lambda: host.queue(b"x\n", PLAIN) == 71 and said in host.log.read_bytes(), "its line")
        assert host.copies() == [] and host.queued() == 0
    finally:
        (host.home / "control/shadowmax").unlink()
        os.kill(host.shadowd(), signal.SIGTERM)
    wait_for(lambda: host.queue(b"Subject: there is room\n\n", PLAIN) == 0, "one that takes more")
