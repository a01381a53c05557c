"""qmail-remote and qmail-lmtp with Dovecot's LMTP server: an answer for each recipient, by TCP and by socket."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.incoming.lmtp_recipient import ask, connect
from tests.loopback import free_port
from tests.scripted_peers import REPO, remote_home, run_program
from tests.waiting import wait_for

DOVECOT = shutil.which("dovecot", path="/usr/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or DOVECOT is None or not Path("/usr/lib/dovecot/lmtp").exists(),
    reason="needs root and dovecot-lmtpd",
)
MODULE = "pyqmail.programs.qmail_remote"
USERS = ("ann@x.test", "ben@x.test", "carl@x.test")
OLD = """\
mail_location = maildir:~/Maildir
passdb {
  driver = passwd-file
  args = BASE/users
}
userdb {
  driver = passwd-file
  args = BASE/users
}
"""
NEW = """\
mail_driver = maildir
mail_path = ~/Maildir
passdb passwd-file {
  passwd_file_path = BASE/users
}
userdb passwd-file {
  passwd_file_path = BASE/users
}
"""
COMMON = """\
base_dir = BASE/run
log_path = BASE/log
protocols = lmtp
ssl = no
service lmtp {
  unix_listener sink {
    mode = 0666
  }
  inet_listener lmtp {
    ADDRESS = 127.0.0.1
    port = PORT
  }
}
"""


class Dovecot:
    """A running one, with a Maildir for each of USERS."""

    def __init__(self, base: Path) -> None:
        assert DOVECOT is not None
        self.base = base
        self.port = free_port()
        self.socket = base / "run/sink"
        nobody = pwd.getpwnam("nobody")
        for name in USERS:
            (base / name).mkdir()
            shutil.chown(base / name, nobody.pw_uid, nobody.pw_gid)
        lines = (f"{name}:{{PLAIN}}x:{nobody.pw_uid}:{nobody.pw_gid}::{base}/{name}::\n" for name in USERS)
        (base / "users").write_text("".join(lines))
        shutil.chown(base / "users", "dovecot")
        version = subprocess.run([DOVECOT, "--version"], capture_output=True, text=True, check=True).stdout
        old = version.startswith("2.3")
        first = "" if old else "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
        text = (first + COMMON + (OLD if old else NEW)).replace("BASE", str(base)).replace("PORT", str(self.port))
        (base / "conf").write_text(text.replace("ADDRESS", "address" if old else "listen"))
        self.process = subprocess.Popen([DOVECOT, "-F", "-c", str(base / "conf")], stdin=subprocess.DEVNULL)
        wait_for(lambda: self.socket.exists() or self.process.poll() is not None, "dovecot")
        assert self.process.poll() is None, (base / "log").read_text()

    def stored(self, name: str) -> list[bytes]:
        """The messages in a user's Maildir."""
        return [path.read_bytes() for path in (self.base / name / "Maildir/new").glob("*")]


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    with tempfile.TemporaryDirectory(prefix="pyqmail-lmtp-") as name:
        Path(name).chmod(0o755)
        server = Dovecot(Path(name))
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait(30)


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
        with (tmp_path / "message").open("rb") as message:
            done = subprocess.run(
                [sys.executable, "-ISXutf8", f"{REPO}/bin/qmail-lmtp", *words],
                stdin=message,
                stdout=subprocess.PIPE,
                env=environ,
                timeout=60,
                check=False,
            )
        return done.returncode, done.stdout

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
