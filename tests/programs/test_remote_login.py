"""qmail-remote logs in at a relay: by smtproutes and authsenders, and never where the password could be had."""

import ssl
from pathlib import Path

import pytest

from tests.certificates import self_signed, server_context
from tests.mail_sink import Answer, Transaction, accept_all, mail_sink
from tests.scripted_peers import dns_peer, remote_home, run_program

MODULE = "pyqmail.programs.qmail_remote"
PLAIN = b"AUTH PLAIN AGpvZQBzZXxyZXQ=\r\n"  # joe, se|ret


def answers(offer: bytes = b"PLAIN LOGIN", reply: bytes = b"235 welcome\r\n") -> Answer:
    def answer(line: bytes, transaction: Transaction) -> bytes | None:
        if line[:4] == b"EHLO":
            return b"250-sink\r\n250-STARTTLS\r\n" + (b"250 AUTH " + offer if offer else b"250 SIZE") + b"\r\n"
        return reply if line[:4] == b"AUTH" else accept_all(line, transaction)

    return answer


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("pem"), "relay.test")


def deliver(folder: Path, port: int, *, sender: bytes = b"s@y.test", mode: int = 0o640, **controls: str) -> bytes:
    """The reports of a delivery by the relay relay.test; ``{}`` in a control file is its port."""
    with dns_peer({("relay.test.", "A"): ["127.0.0.1"]}) as dns:
        home = remote_home(folder, dnsservers=f"127.0.0.1:{dns.port}")
        for name, text in controls.items():
            path = home / "control" / name
            path.write_text(text.format(port) + "\n")
            path.chmod(mode)
        status, reports = run_program(MODULE, [b"x.test", sender, b"r@x.test"], home, b"hello\n")
    assert status == 0 and b"se|ret" not in reports
    return reports


def test_a_password_goes_to_a_verified_relay(tmp_path: Path, pem: Path) -> None:
    with mail_sink(answers(), context=server_context(pem)) as sink:
        controls = {"smtproutes": ":relay.test:{}|joe|se|ret", "tlsdestinations": f"relay.test:verify|{pem}"}
        assert deliver(tmp_path, sink.port, **controls).endswith(b"tls=TLSv1.3, verified by file\n\0")
        assert PLAIN in sink.lines


@pytest.mark.parametrize(
    ("route", "context", "says", "told"),
    [
        pytest.param("{}", True, b"TLS failed: certificate: self-signed certificate", False, id="not verified"),
        pytest.param("{}", False, b"STARTTLS was rejected", False, id="not under TLS"),
        pytest.param("{}/unverified", True, b"tls=TLSv1.3, encrypted by login", True, id="whoever answers under TLS"),
        pytest.param("{}/unverified", False, b"STARTTLS was rejected", False, id="that is no TLS"),
        pytest.param("{}/clear", False, b"accepted message", True, id="in clear"),
        pytest.param("{}/cleer", False, b"STARTTLS was rejected", False, id="a word that is none"),
    ],
)
def test_a_password_goes_elsewhere_only_if_the_line_says_so(
    tmp_path: Path, pem: Path, route: str, context: bool, says: bytes, told: bool
) -> None:
    def without_tls(line: bytes, transaction: Transaction) -> bytes | None:
        return b"454 no\r\n" if line[:8] == b"STARTTLS" else answers()(line, transaction)

    served: tuple[Answer, ssl.SSLContext | None] = (answers(), server_context(pem)) if context else (without_tls, None)
    with mail_sink(served[0], context=served[1]) as sink:
        assert says in deliver(tmp_path, sink.port, smtproutes=f":relay.test:{route}|joe|se|ret")
        assert (PLAIN in sink.lines) is told


@pytest.mark.parametrize(
    ("offer", "reply", "says"),
    [
        (b"PLAIN", b"535 5.7.8 bad password\r\n", b"but our login was rejected.\nRemote host said: 535 5.7.8"),
        (b"PLAIN", b"454 later\r\n", b"but our login was rejected.\nRemote host said: 454 later"),
        (b"GSSAPI", b"", b"but no AUTH of ours was offered. (#4.7.0)"),
        (b"", b"", b"but no AUTH of ours was offered. (#4.7.0)"),
    ],
)
def test_a_login_that_fails_makes_mail_wait(tmp_path: Path, offer: bytes, reply: bytes, says: bytes) -> None:
    with mail_sink(answers(offer, reply)) as sink:
        reports = deliver(tmp_path, sink.port, smtproutes=":relay.test:{}/clear|joe|se|ret", tlsdestinations="*:none")
        assert reports.startswith(b"ZConnected to 127.0.0.1 " + says) and sink.connections == 1
        assert not any(line.startswith(b"MAIL") for line in sink.lines)


@pytest.mark.parametrize("file", ["smtproutes", "authsenders"])
def test_a_password_that_others_can_read_is_not_used(tmp_path: Path, file: str) -> None:
    with mail_sink(answers()) as sink:
        reports = deliver(tmp_path, sink.port, mode=0o644, **{file: ":relay.test:{}/clear|joe|se|ret"})
        assert reports.startswith(
            b"ZThe password of a relay can be read by everyone: chmod 0640 control/" + file.encode()
        )
        assert sink.connections == 0


def test_a_file_without_a_password_for_this_domain_may_be_read_by_all(tmp_path: Path) -> None:
    with mail_sink(answers()) as sink:
        routes = "x.test:relay.test:{}\n:relay.test:1/clear|joe|se|ret"
        assert deliver(tmp_path, sink.port, mode=0o644, smtproutes=routes, tlsdestinations="*:none")[:3] == b"r\0K"


@pytest.mark.parametrize(
    ("line", "sender", "used"),
    [
        ("ann@y.test", b"Ann@Y.test", True),
        ("ann@y.test", b"bob@y.test", False),
        ("@y.test", b"bob@y.test", True),
        ("@y.test", b"bob@z.y.test", False),
        (".y.test", b"bob@z.y.test", True),
        ("", b"bob@z.test", True),
        ("", b"", True),
    ],
)
def test_a_route_by_sender_wins(tmp_path: Path, line: str, sender: bytes, used: bool) -> None:
    with mail_sink(answers()) as sink:
        controls = {"authsenders": line + ":relay.test:{}/clear|joe|se|ret", "smtproutes": ":relay.test:{}"}
        assert deliver(tmp_path, sink.port, sender=sender, tlsdestinations="*:none", **controls)[:3] == b"r\0K"
        assert (PLAIN in sink.lines) is used


def token(folder: Path, text: str) -> str:
    program = folder / "token"
    program.write_text("#!/bin/sh\n" + text)
    program.chmod(0o755)
    return f":relay.test:{{}}/clear|joe|!{program} joe"


def test_a_program_prints_a_token(tmp_path: Path) -> None:
    with mail_sink(answers(b"XOAUTH2")) as sink:
        route = token(tmp_path, 'echo "T0K-$1"; sleep 600 >/dev/null &\n')
        (tmp_path / "home").mkdir()
        assert deliver(tmp_path / "home", sink.port, smtproutes=route, tlsdestinations="*:none")[:3] == b"r\0K"
        assert b"AUTH XOAUTH2 dXNlcj1qb2UBYXV0aD1CZWFyZXIgVDBLLWpvZQEB\r\n" in sink.lines


@pytest.mark.parametrize("text", ["exit 1\n", "echo two words\n", "yes | head -c 99999\n"])
def test_a_program_without_a_token_makes_mail_wait(tmp_path: Path, text: str) -> None:
    with mail_sink(answers(b"XOAUTH2")) as sink:
        route = token(tmp_path, text)
        (tmp_path / "home").mkdir()
        reports = deliver(tmp_path / "home", sink.port, smtproutes=route, tlsdestinations="*:none")
        assert reports == b"ZUnable to get a token for the relay. (#4.3.0)\n\0"
