"""qmail-remote and servers with one certificate or another, asked for more or for less."""

import os
import shutil
from pathlib import Path

import pytest

from tests.certificates import self_signed, signed_by
from tests.integration.receivers import DOMAIN, POSTFIX_SERVICES, Exim, Opensmtpd, Postfix, unpacked
from tests.scripted_peers import dns_peer, remote_home, run_program
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: starts Postfix"),
    pytest.mark.skipif(shutil.which("postfix", path="/usr/sbin:/usr/bin") is None, reason="needs postfix"),
]
MODULE = "pyqmail.programs.qmail_remote"
NAME = f"mx.{DOMAIN}"
FAILED = b"ZConnected to 127.0.0.1 but TLS failed: certificate: "


class TlsPostfix(Postfix):
    """One that has what its smtpd needs for TLS."""

    SERVICES = POSTFIX_SERVICES + "tlsmgr unix - - n 1000? 1 tlsmgr\n"


def deliver(folder: Path, port: int, box: str, asked: str) -> bytes:
    """The reports of a delivery to one box, as control/tlsdestinations asks."""
    folder.mkdir()
    with dns_peer({(f"{NAME}.", "A"): ["127.0.0.1"]}) as dns:
        home = remote_home(
            folder,
            smtproutes=f":{NAME}:{port}",
            dnsservers=f"127.0.0.1:{dns.port}",
            tlsdestinations=f"{DOMAIN}:{asked}",
        )
        words = [DOMAIN.encode(), b"s@sender.test", f"{box}@{DOMAIN}".encode()]
        status, reports = run_program(MODULE, words, home, b"Subject: x\n\nhello \xe9\n.\n")
    assert status == 0
    return reports


@pytest.mark.parametrize(
    ("certificate", "trouble"),
    [
        pytest.param("good", b"", id="good"),
        pytest.param("expired", b"certificate has expired", id="expired"),
        pytest.param("self-signed", b"self-signed certificate", id="self-signed"),
        pytest.param("wrong name", b"it is for another name", id="for another name"),
    ],
)
def test_postfix_is_verified_where_that_is_asked_for(tmp_path: Path, certificate: str, trouble: bytes) -> None:
    authority = self_signed(tmp_path, "ca.test")
    if certificate == "self-signed":
        pem = self_signed(tmp_path, NAME)
    else:
        name = "other.test" if certificate == "wrong name" else NAME
        pem = signed_by(authority, tmp_path, name, days=-1 if certificate == "expired" else 30)
    boxes = ["may", "encrypt", "verify"]
    postfix = TlsPostfix(boxes, f"smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {pem}\n")
    try:
        for box, asked, how in (("may", "may", b"opportunistic"), ("encrypt", "encrypt", b"encrypted by file")):
            reports = deliver(tmp_path / box, postfix.port, box, asked)
            assert reports.startswith(b"r\0K") and reports.endswith(b"tls=TLSv1.3, " + how + b"\n\0"), reports
        reports = deliver(tmp_path / "verify", postfix.port, "verify", f"verify|{authority}")
        if trouble:
            assert reports.startswith(FAILED + trouble), reports
        else:
            assert reports.startswith(b"r\0K") and reports.endswith(b"verified by file\n\0"), reports
        taken = boxes[: 2 if trouble else 3]
        wait_for(lambda: all(postfix.stored(box) for box in taken), "the messages in their boxes")
        assert all((postfix.stored(box) or b"").endswith(b"\nhello \xe9\n.\n") for box in taken)
        assert trouble == b"" or postfix.stored("verify") is None
    finally:
        postfix.stop()


@pytest.mark.skipif(not unpacked("exim4"), reason="needs exim4")
def test_exim_is_verified_where_that_is_asked_for(tmp_path: Path) -> None:
    authority, stranger = self_signed(tmp_path, "ca.test"), self_signed(tmp_path, "stranger.test")
    server = Exim(["verify", "refused"], pem=signed_by(authority, tmp_path, NAME))
    try:
        reports = deliver(tmp_path / "verify", server.port, "verify", f"verify|{authority}")
        assert reports.startswith(b"r\0K") and reports.endswith(b"verified by file\n\0"), reports
        assert deliver(tmp_path / "refused", server.port, "refused", f"verify|{stranger}").startswith(FAILED)
        wait_for(lambda: server.stored("verify"), "the message in the queue")
        assert (server.stored("verify") or b"").endswith(b"hello \xe9\n.\n") and server.stored("refused") is None
    finally:
        server.stop()


@pytest.mark.skipif(not unpacked("smtpd"), reason="needs OpenSMTPD")
def test_opensmtpd_gets_what_need_not_be_secured_though_its_handshake_may_fail(tmp_path: Path) -> None:
    """That of Debian 12 (6.8.0p2, OpenSSL 3) offers STARTTLS and breaks off each handshake with an internal error."""
    server = Opensmtpd(["may"], pem=signed_by(self_signed(tmp_path, "ca.test"), tmp_path, NAME))
    try:
        assert deliver(tmp_path / "may", server.port, "may", "may").startswith(b"r\0K")
        wait_for(lambda: server.stored("may"), "the message in the queue")
    finally:
        server.stop()
