"""qmail-remote --probe: what a server says, up to the point where a message would begin."""

from pathlib import Path

import pytest

from tests.certificates import self_signed, server_context
from tests.loopback import free_port
from tests.mail_sink import Transaction, accept_all, mail_sink
from tests.scripted_peers import remote_home, run_program

MODULE = "pyqmail.programs.qmail_remote"


def offers(line: bytes, transaction: Transaction) -> bytes | None:
    return b"250-x\r\n250-SIZE 1000\r\n250 STARTTLS\r\n" if line[:4] == b"EHLO" else accept_all(line, transaction)


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ("may", 0, b"tls=TLSv1.3, opportunistic"),
        ("verify", 111, b"but TLS failed: certificate: self-signed certificate. (#4.7.5)"),
    ],
)
def test_a_server_is_looked_at_and_gets_no_message(tmp_path: Path, asked: str, code: int, said: bytes) -> None:
    with mail_sink(offers, context=server_context(self_signed(tmp_path))) as sink:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{sink.port}", tlsdestinations=f"*:{asked}")
        status, text = run_program(MODULE, [b"--probe", b"x.test"], home)
        assert status == code and said in text, text
        assert not sink.taken and not any(line.startswith((b"MAIL", b"DATA")) for line in sink.lines)
    if code == 0:
        assert b"SIZE 1000" in text and b"for mx.test, ECDSA" in text and b"1 would take a message" in text


def test_nobody_there(tmp_path: Path) -> None:
    home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{free_port()}")
    status, text = run_program(MODULE, [b"--probe", b"x.test"], home)
    assert status == 111 and b"Connection refused" in text and b"nobody would take" in text


def test_a_password_that_others_can_read_is_not_tried(tmp_path: Path) -> None:
    with mail_sink() as sink:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{sink.port}/clear|joe|secret")
        (home / "control/smtproutes").chmod(0o644)
        status, text = run_program(MODULE, [b"--probe", b"x.test"], home)
        assert status == 111 and b"chmod 0640" in text and not sink.connections


def test_control_files_that_cannot_be_read(tmp_path: Path) -> None:
    home = remote_home(tmp_path)
    (home / "control/me").unlink()
    assert run_program(MODULE, [b"--probe", b"x.test"], home)[0] == 111
