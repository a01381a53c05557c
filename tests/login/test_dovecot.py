"""qmail-authd beside Dovecot: its users, its answers, and servers that are none."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.login import checking
from pyqmail.login.answer import Answer
from pyqmail.login.dovecot import GREETING_MAX, ask_dovecot, parse_answer, plain_request
from pyqmail.protocol.sasl import Credentials
from tests.waiting import wait_for

GREETING = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\tx\nDONE\n"
OLD = """\
passdb {
  driver = passwd-file
  args = BASE/users
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
"""
NEW = """\
passdb passwd-file {
  passwd_file_path = BASE/users
}
userdb static {
  fields {
    uid = nobody
    gid = nogroup
    home = /nonexistent
  }
}
"""
COMMON = """\
base_dir = BASE/run
log_path = BASE/log
protocols =
ssl = no
service auth {
  unix_listener asked {
    mode = 0600
  }
}
"""


def ask(path: object, user: bytes = b"ann@x.test", secret: bytes = b"right horse", method: bytes = b"plain") -> Answer:
    challenge = b"<1@x>" if method == b"cram-md5" else b""
    return ask_dovecot(os.fsencode(str(path)), Credentials(method, user, secret, challenge), b"192.0.2.7")


def greets(path: Path) -> bool:
    """Whether the server has begun to talk."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            return sock.recv(1) != b""
    except OSError:
        return False


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Path]:
    """The socket of a running one, whose only user is ann@x.test."""
    program = shutil.which("dovecot", path="/usr/sbin:/usr/bin")
    if program is None or os.geteuid() != 0:
        pytest.skip("needs dovecot and root")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    old = version.startswith("2.3")
    first = "" if old else "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
    with tempfile.TemporaryDirectory(prefix="pyqmail-dovecot-") as name:
        base = Path(name)
        base.chmod(0o755)
        (base / "users").write_text("ann@x.test:{PLAIN}right horse::::::\n")
        shutil.chown(base / "users", "dovecot")
        (base / "conf").write_text((first + COMMON + (OLD if old else NEW)).replace("BASE", name))
        process = subprocess.Popen([program, "-F", "-c", str(base / "conf")], stdin=subprocess.DEVNULL)
        try:
            path = base / "run/asked"
            wait_for(lambda: greets(path) or process.poll() is not None, "dovecot")
            assert process.poll() is None, (base / "log").read_text()
            yield path
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize(
    ("user", "secret", "found"),
    [
        (b"ann@x.test", b"right horse", Answer.YES),
        (b"Ann@X.test", b"right horse", Answer.YES),
        (b"ann@x.test", b"wrong", Answer.NO),
        (b"a\tb=\\c", b"p\tw\xff\n", Answer.NO),
    ],
)
def test_its_users(dovecot: Path, user: bytes, secret: bytes, found: Answer) -> None:
    assert ask(dovecot, user, secret) is found


def test_a_digest_cannot_be_known(dovecot: Path) -> None:
    assert ask(dovecot, method=b"cram-md5") is Answer.LATER


def test_control_authd_names_it(dovecot: Path, tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/authd").write_text(f"dovecot:{dovecot}\n")
    credentials = Credentials(b"login", b"ann@x.test", b"right horse")
    assert checking.check(str(tmp_path), credentials, b"", single_user=False) is Answer.YES
    assert pwd.getpwnam("nobody")  # whose password is nobody's: PAM is not asked
    credentials = Credentials(b"login", b"nobody", b"x")
    assert checking.check(str(tmp_path), credentials, b"", single_user=False) is Answer.NO


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"220 mx.test ESMTP\r\n",
        GREETING.replace(b"VERSION\t1", b"VERSION\t2") + b"OK\t1\tuser=ann\n",
        GREETING.replace(b"PLAIN", b"CRAM-MD5") + b"OK\t1\n",
        GREETING + b"CONT\t1\t\n",
        GREETING + b"FAIL\t1\tuser=ann\ttemp\n",
        GREETING + b"FAIL\t1\tcode=temp_fail\n",
        GREETING + b"OK\t2\tuser=ann\n",
        GREETING + b"OK\t1",
        GREETING + b"y\n" * 100 + b"CONT\t1\n",
        b"x\n" * GREETING_MAX,
        b"x" * 2 * GREETING_MAX,
        GREETING + b"y\n" * GREETING_MAX,
    ],
    ids=lambda said: said[-30:].decode() if isinstance(said, bytes) else "",
)
def test_what_is_no_answer_says_nothing_about_the_password(tmp_path: Path, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        pid = os.fork()
        if pid == 0:
            try:
                sock, _ = listener.accept()
                sock.sendall(said)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    continue
            finally:
                os._exit(0)
        listener.close()
        assert ask(tmp_path / "s") is Answer.LATER
        os.waitpid(pid, 0)


def test_nobody_there(tmp_path: Path) -> None:
    assert ask(tmp_path / "absent") is Answer.LATER
    assert ask("/" + "x" * 200) is Answer.LATER


@given(st.binary())
def test_any_line(line: bytes) -> None:
    assert parse_answer(line) in (None, *Answer)


@given(st.binary(max_size=64))
def test_an_address_adds_no_field(ip: bytes) -> None:
    request = plain_request(b"ann", b"pw", ip)
    assert request.count(b"\n") == 1 and request.endswith(b"\tresp=AGFubgBwdw==\n")
    assert request.count(b"\t") in (6, 7)
