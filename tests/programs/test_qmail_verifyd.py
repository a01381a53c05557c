"""qmail-verifyd and qmail-smtpd of a single user: they do what DMARC asks for, and nobody else is answered."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyqmail.protocol.verification import SOCKET, format_pairs
from tests import loopback
from tests.programs.queue_program import write_queue_program
from tests.public_directory import public_directory
from tests.scripted_peers import dns_peer
from tests.waiting import wait_for

BIN = Path(__file__).parents[2] / "bin"
UID = os.geteuid() or 65534
BECOME: dict[str, Any] = {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}
ZONE = {
    ("_dmarc.strict.test.", "TXT"): ['"v=DMARC1; p=reject"'],
    ("strict.test.", "TXT"): ['"v=spf1 ip4:192.0.2.7 -all"'],
}
ASK = """
import socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
try:
    sock.send(bytes.fromhex(sys.argv[2]))
    print(len(sock.recv(65536)))
except OSError:
    print(0)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """The tree, whose qmail-verifyd runs."""
    with public_directory() as base, dns_peer(ZONE) as names:
        control = {
            "conf-users": "\n".join([str(UID)] * 8),
            "conf-groups": "\n".join([str(os.getegid() or UID)] * 2),
            "me": "mx.test",
            "rcpthosts": "here.test",
            "dmarcbehavior": "3",
            "dnsservers": f"127.0.0.1:{names.port}",
        }
        for directory in ("control", "run/incoming"):
            (base / directory).mkdir(parents=True)
        for name, text in control.items():
            (base / "control" / name).write_text(text + "\n")
        write_queue_program(base / "queue")
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{UID}:{UID}", base], check=True)
        process = subprocess.Popen([BIN / "qmail-verifyd"], env={"QMAIL_HOME": str(base)}, **BECOME)
        try:
            wait_for(lambda: answered(base, UID), "qmail-verifyd")
            yield base
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def answered(home: Path, uid: int) -> bool:
    """Whether ``uid`` gets an answer about a sender."""
    question = format_pairs([(b"about", b"sender"), (b"ip", b"192.0.2.7"), (b"helo", b"c"), (b"sender", b"")])
    words = [sys.executable, "-IS", "-c", ASK, str(home) + SOCKET, question.hex()]
    become = BECOME and {**BECOME, "user": uid, "group": uid}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **become)
    return done.stdout.strip() not in ("", "0")


def talk(home: Path, ip: str) -> list[bytes]:
    """The replies to a message of strict.test."""
    ours, theirs = socket.socketpair()
    environ = {"QMAIL_HOME": str(home), "QMAILQUEUE": str(home / "queue"), "OUT": str(home), "TCPREMOTEIP": ip}
    with ours, theirs:
        words = [BIN / "qmail-smtpd"]
        process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, env=environ | {"PATH": os.environ["PATH"]}, **BECOME
        )
        theirs.close()
        ours.settimeout(60)
        said = loopback.talk(
            ours,
            b"EHLO c\r\nMAIL FROM:<a@strict.test>\r\nRCPT TO:<b@here.test>\r\nDATA\r\n"
            b"From: a@strict.test\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n",
        )
        process.wait(60)
    return said.splitlines()


def test_a_policy_is_kept(home: Path) -> None:
    assert any(line.startswith(b"250 ok ") for line in talk(home, "192.0.2.7"))
    assert b"spf=pass" in (home / "queued").read_bytes() and b"dmarc=pass" in (home / "queued").read_bytes()
    assert any(line.startswith(b"550 DMARC: strict.test") for line in talk(home, "192.0.2.8"))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_not_answered(home: Path) -> None:
    assert answered(home, UID) and not answered(home, UID - 1)
