"""qmail-remote and qmail-lmtp with Dovecot's LMTP server: an answer for each recipient, by TCP and by socket."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.incoming.lmtp_recipient import ask, connect
from tests.integration import dovecot_lmtp
from tests.integration.dovecot_lmtp import Dovecot
from tests.scripted_peers import REPO, remote_home, run_program

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not dovecot_lmtp.PRESENT, reason="needs root and dovecot-lmtpd")
MODULE = "pyqmail.programs.qmail_remote"
USERS = ("ann@x.test", "ben@x.test", "carl@x.test")


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    with dovecot_lmtp.dovecot(USERS) as server:
        yield server


def lmtp(environ: dict[str, str], message: Path, *words: str) -> tuple[int, bytes]:
    """What a qmail-lmtp ends with and prints."""
    with message.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-ISXutf8", f"{REPO}/bin/qmail-lmtp", *words],
            stdin=file,
            stdout=subprocess.PIPE,
            env=environ,
            timeout=60,
            check=False,
        )
    return done.returncode, done.stdout


@pytest.mark.parametrize("by", ["tcp", "socket"])
def test_each_recipient_has_its_own_answer(dovecot: Dovecot, tmp_path: Path, by: str) -> None:
    os.symlink("/nonexistent", dovecot.base / "ben@x.test/Maildir")  # a mailbox that cannot be opened now
    route = f"[127.0.0.1]:{dovecot.port}/lmtp" if by == "tcp" else f"[127.0.0.1]:1/lmtp={dovecot.socket}"
    home = remote_home(tmp_path, smtproutes=f"x.test:{route}")
    recipients = [b"ann@x.test", b"ben@x.test", b"nobody@x.test", b"ann@x.test", b"carl@x.test"]
    status, output = run_program(MODULE, [b"x.test", b"s@y.test", *recipients], home, b"Subject: x\n\n.hello \xe9\n")
    *records, message, _ = output.split(b"\0")
    assert status == 0 and [record[:1] for record in records] == [b"r", b"s", b"h", b"r", b"r"], output
    assert message.startswith(b"K") and b"failed after I sent the message.\nRemote host said: 451" in records[1]
    assert b"does not like recipient.\nRemote host said: 550" in records[2]
    for name in ("ann@x.test", "carl@x.test"):
        stored = dovecot.stored(name)
        assert stored and all(each.endswith(b"Subject: x\n\n.hello \xe9\n") for each in stored)


def test_a_full_mailbox_refuses_or_puts_off_its_own_recipient_alone(tmp_path: Path) -> None:
    quotas = {"ann@x.test": 2000, "ben@x.test": -2000}  # ben's says "later"
    message = b"Subject: x\n\n" + b"y" * 1500 + b"\n"
    with dovecot_lmtp.dovecot(USERS, quotas=quotas) as server:
        home = remote_home(tmp_path, smtproutes=f"x.test:[127.0.0.1]:{server.port}/lmtp")
        words = [b"x.test", b"s@y.test", *map(str.encode, USERS)]
        _, output = run_program(MODULE, words, home, message)
        assert [record[:1] for record in output.split(b"\0")[:3]] == [b"r"] * 3, output
        _, output = run_program(MODULE, words, home, message)
        full, later, stored, *_ = output.split(b"\0")
        assert (full[:1], later[:1], stored) == (b"h", b"s", b"r"), output
        assert b"Remote host said: 552 5.2.2 " in full and b"Remote host said: 452 4.2.2 " in later
        assert [len(server.stored(name)) for name in USERS] == [1, 1, 2]
        (tmp_path / "message").write_bytes(message)
        for name, code in zip(USERS, (100, 111, 0), strict=True):
            environ = {"QMAIL_HOME": str(home), "SENDER": "s@y.test", "DTLINE": f"Delivered-To: {name}\n"}
            assert lmtp(environ, tmp_path / "message", str(server.socket), name)[0] == code


def test_dovecot_is_asked_whether_a_recipient_exists(dovecot: Dovecot) -> None:
    for where in (("127.0.0.1", dovecot.port), os.fsencode(dovecot.socket)):
        known = {
            name: ask(connect(where), name) for name in (b"ann@x.test", b"nobody@x.test", b"Ann@X.Test", b"@x.test")
        }
        assert known[b"ann@x.test"] and not known[b"nobody@x.test"] and not known[b"@x.test"]


def test_a_qmail_file_gives_a_message_to_dovecot(dovecot: Dovecot, tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("me.test\n")
    (tmp_path / "message").write_bytes(b"Subject: x\n\nhello\n")

    def run(*words: str, sender: str = "s@y.test") -> tuple[int, bytes]:
        environ = {"QMAIL_HOME": str(tmp_path), "SENDER": sender, "RECIPIENT": "joe-ann@x.test"}
        environ["DTLINE"] = "Delivered-To: joe-ann@x.test\n"
        return lmtp(environ, tmp_path / "message", *words)

    code, said = run(str(dovecot.socket), "ann@x.test", sender="#@[]")
    assert code == 0 and b" accepted message.\nRemote host said: 250 2.0.0 <ann@x.test>" in said
    (stored,) = dovecot.stored("ann@x.test")
    assert b"Return-Path: <>\n" in stored and stored.endswith(b"Delivered-To: joe-ann@x.test\nSubject: x\n\nhello\n")
    assert run(f"127.0.0.1:{dovecot.port}", "ann@x.test")[0] == 0
    code, said = run(f"[127.0.0.1]:{dovecot.port}")  # Dovecot does not know $RECIPIENT
    assert code == 100 and b"Remote host said: 550" in said
    os.rename(dovecot.base / "ann@x.test", dovecot.base / "gone")
    os.symlink("/nonexistent", dovecot.base / "ann@x.test")
    assert run(str(dovecot.socket), "ann@x.test")[0] == 111
    for words in ([str(tmp_path / "nothing")], ["127.0.0.1:1"], ["host.test"], ["127.0.0.1:x"], []):
        assert run(*words)[0] == 111
