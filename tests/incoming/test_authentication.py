"""AUTH at the door of qmail-smtpd: real processes, checkers that are programs, and real clients."""

import base64
import hashlib
import hmac
import re
import shutil
import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.control import Control
from pyqmail.incoming.authentication import checker, mechanisms
from tests.certificates import client_context, self_signed
from tests.incoming.test_security import Client, install
from tests.programs.door import DEADLINE_S, Door, door_of
from tests.programs.tcp_servers import Servers

SECRET = "Tr0ub4dor&3"
PLAIN = base64.b64encode(f"\0ann\0{SECRET}".encode())
WRONG = base64.b64encode(b"\0ann\0wrong")
CHECKER = """#!/bin/sh
cat <&3 >{base}/asked
env >{base}/checker-environ
{more}
case "$(tr '\\0' '|' <{base}/asked)" in
'ann|{secret}|'*) exec "$@" ;;
esac
exit {code}
"""
OFFERED = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-8BITMIME\r\n250 AUTH LOGIN PLAIN\r\n"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        write_checker(made)
        made.command = [made.command[0], str(made.base / "vchkpw"), "true"]
        made.environ |= {"SMTPAUTH": "", "FORCETLS": "0"}
        yield made


def write_checker(door: Door, code: int = 1, more: str = "") -> None:
    path = door.base / "vchkpw"
    path.write_text(CHECKER.format(base=door.base, code=code, more=more, secret=SECRET))
    path.chmod(0o755)


def greeted(door: Door) -> Client:
    client = Client(door)
    client.reply()
    client.say(b"EHLO c")
    return client


def variables(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


@pytest.mark.parametrize(
    ("setting", "offered"),
    [
        (None, None),
        (b"", b"LOGIN PLAIN"),
        (b"yes", b"LOGIN PLAIN"),
        (b"+cram", b"LOGIN PLAIN CRAM-MD5"),
        (b"cram", b"CRAM-MD5"),
        (b"!", b"LOGIN PLAIN"),
        (b"!cram", b"CRAM-MD5"),
        (b"!+cram", b"LOGIN PLAIN CRAM-MD5"),
        (b"-", None),
        (b"0", None),
    ],
)
def test_the_words_of_smtpauth(setting: bytes | None, offered: bytes | None) -> None:
    assert mechanisms(setting) == offered


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], []),
        (["sh"], []),
        (["sh", "true"], ["sh", "true"]),
        (["mx.test", "sh", "true"], ["sh", "true"]),
        (["mail.example.org", "/x/vchkpw", "/bin/true"], ["/x/vchkpw", "/bin/true"]),
        (["/x/vchkpw", "/bin/true"], ["/x/vchkpw", "/bin/true"]),
        (["missing", "true"], ["missing", "true"]),
        (["missing.pl", "true"], ["missing.pl", "true"]),
        (["missing", "sh", "-c", "true"], ["missing", "sh", "-c", "true"]),
    ],
)
def test_the_checker_of_a_command_line(words: list[str], found: list[str], tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("mx.test\n")
    command = checker([word.encode() for word in words], Control(str(tmp_path)), {b"PATH": b"/bin"})
    assert [word.decode() for word in command] == found


@pytest.mark.parametrize(
    ("secured", "known", "word"),
    [(False, True, b"UTF8SMTPA"), (True, False, b"UTF8SMTPS"), (True, True, b"UTF8SMTPSA")],
)
def test_utf_8_mail_has_the_words_of_rfc_6531(door: Door, pem: Path, secured: bool, known: bool, word: bytes) -> None:
    """Section 4.3; UTF8SMTP alone is in tests/programs/test_rfc_6531.py."""
    door.control(smtputf8="1", factsafe=door.environ["QMAILQUEUE"])
    install(door, pem)
    client = greeted(door)
    if secured:
        client.say(b"STARTTLS")
        client.secure(client_context(pem))
    assert b"SMTPUTF8" in client.say(b"EHLO c")
    assert not known or client.say(b"AUTH PLAIN " + PLAIN).startswith(b"235 ")
    for command in (b"MAIL FROM:<\xce\xb4@b> SMTPUTF8", b"RCPT TO:<c@here.test>", b"DATA", b"x: y\r\n."):
        client.say(command)
    assert re.findall(rb" with (\w+)", (door.base / "message").read_bytes()) == [word]


def test_after_it_the_client_may_send_anywhere_and_programs_hear_who_it_is(door: Door) -> None:
    door.queue(f"env >{door.base}/environ")
    door.environ |= {"SMTPAUTHUSER": "claimed", "SMTPAUTHMETHOD": "claimed", "AUTHUSER": "claimed"}
    client = greeted(door)
    assert client.say(b"EHLO c") == OFFERED
    assert client.say(b"AUTH PLAIN " + PLAIN) == b"235 ok, go ahead (#2.0.0)\r\n"
    for command in (b"MAIL FROM:<a@b> AUTH=<>", b"RCPT TO:<c@elsewhere.test>"):
        assert client.say(command) == b"250 ok\r\n"
    client.say(b"DATA")
    assert client.say(b"Subject: x\r\n\r\ny\r\n.").startswith(b"250 ok ")
    client.say(b"QUIT")
    _, code, log = client.end()
    assert code == 0
    first, second = log.splitlines()
    assert first == "qmail-smtpd: auth: auth-success type=plain user=<ann> ip=192.0.2.7"
    assert second.endswith(" authuser=ann authtype=plain")
    received = (door.base / "message").read_bytes().partition(b";")[0].split(b"\n  ")
    assert received == [b"Received: from unknown (HELO c) (ann@192.0.2.7)", b"by mx.test with ESMTPA"]
    found = variables(door.base / "environ")
    assert (found["RELAYCLIENT"], found["TCPREMOTEINFO"]) == ("", "ann")
    assert (found["SMTPAUTHUSER"], found["SMTPAUTHMETHOD"]) == ("ann", "plain")
    assert "claimed" not in found.values()
    for path in ("environ", "checker-environ", "log"):
        text = (door.base / path).read_text()
        assert SECRET not in text and PLAIN.decode() not in text


@pytest.mark.parametrize(("setting", "asked"), [("", b"ann\0%b\0"), ("+cram", b"ann\0%b\0\0")])
def test_what_the_checker_reads(door: Door, setting: str, asked: bytes) -> None:
    door.environ["SMTPAUTH"] = setting
    client = greeted(door)
    assert client.say(b"AUTH LOGIN") == b"334 VXNlcm5hbWU6\r\n"
    assert client.say(base64.b64encode(b"ann")) == b"334 UGFzc3dvcmQ6\r\n"
    assert client.say(base64.b64encode(SECRET.encode())).startswith(b"235 ")
    assert (door.base / "asked").read_bytes() == asked % SECRET.encode()


def test_cram_md5_gives_the_checker_a_digest_and_the_challenge(door: Door) -> None:
    door.environ["SMTPAUTH"] = "cram"
    write_checker(door, code=0)
    client = greeted(door)
    challenge = base64.b64decode(client.say(b"AUTH CRAM-MD5").removeprefix(b"334 "))
    digest = hmac.new(SECRET.encode(), challenge, hashlib.md5).hexdigest().encode()
    assert client.say(base64.b64encode(b"ann " + digest)).startswith(b"235 ")
    assert (door.base / "asked").read_bytes() == b"ann\0" + digest + b"\0" + challenge + b"\0"


def test_a_wrong_password_is_535_and_a_line(door: Door) -> None:
    client = greeted(door)
    assert client.say(b"AUTH PLAIN " + WRONG) == b"535 authentication failed (#5.7.8)\r\n"
    assert client.say(b"MAIL FROM:<a@b>") == b"250 ok\r\n"
    assert client.say(b"RCPT TO:<c@elsewhere.test>").startswith(b"553 ")
    client.say(b"QUIT")
    log = client.end()[2]
    assert log.startswith("qmail-smtpd: auth: auth-failed type=plain user=<ann> ip=192.0.2.7\n")
    assert WRONG.decode() not in log


@pytest.mark.parametrize(
    "trouble", ["exit 111", "kill -9 $$", "exit 2", "missing", "not executable", "no next program"]
)
def test_a_checker_that_cannot_know_is_454(door: Door, trouble: str) -> None:
    write_checker(door, more=trouble if trouble[:4] in ("exit", "kill") else "")
    if trouble == "missing":
        (door.base / "vchkpw").unlink()
    elif trouble == "not executable":
        (door.base / "vchkpw").chmod(0o644)
    elif trouble == "no next program":
        door.command[-1] = "/nowhere/true"
    client = greeted(door)
    answer = b"454 unable to check the password at the moment (#4.7.0)\r\n"
    assert [client.say(b"AUTH PLAIN " + PLAIN) for _ in range(3)] == [answer] * 3
    rest, code, log = client.end()
    assert (rest, code) == (b"", 1)
    assert log.count("auth: auth-deferred") == 3


def test_a_checker_that_is_not_there_makes_none_of_true(door: Door) -> None:
    door.command[1:] = ["vchkpw", "true"]
    client = greeted(door)
    assert client.say(b"AUTH PLAIN " + PLAIN).startswith(b"454 ")


def test_before_tls_it_is_not_offered_and_refused(door: Door, pem: Path) -> None:
    del door.environ["FORCETLS"]
    install(door, pem)
    client = Client(door)
    client.reply()
    assert b"AUTH" not in client.say(b"EHLO c")
    assert client.say(b"AUTH PLAIN " + PLAIN) == b"538 auth not available without TLS (#5.3.3)\r\n"
    client.say(b"STARTTLS")
    client.secure(client_context(pem))
    assert client.say(b"EHLO c") == OFFERED
    assert client.say(b"AUTH PLAIN " + PLAIN).startswith(b"235 ")
    for command in (b"MAIL FROM:<a@b>", b"RCPT TO:<c@elsewhere.test>", b"DATA", b"x: y\r\n."):
        client.say(command)
    assert b" with ESMTPSA (TLS_" in (door.base / "message").read_bytes()


def test_starttls_forgets_the_user(door: Door, pem: Path) -> None:
    door.environ["SMTPAUTH"] = "!"
    install(door, pem)
    client = greeted(door)
    assert client.say(b"AUTH PLAIN " + PLAIN).startswith(b"235 ")
    client.say(b"STARTTLS")
    client.secure(client_context(pem))
    assert client.say(b"MAIL FROM:<a@b>").startswith(b"530 ")
    assert client.say(b"AUTH PLAIN " + PLAIN).startswith(b"235 ")


def test_no_mail_without_it_where_it_is_required(door: Door) -> None:
    door.environ["SMTPAUTH"] = "!"
    client = greeted(door)
    assert client.say(b"MAIL FROM:<a@b>") == b"530 Authorization required (#5.7.1)\r\n"
    client.say(b"AUTH PLAIN " + PLAIN)
    assert client.say(b"MAIL FROM:<a@b>") == b"250 ok\r\n"


@pytest.mark.parametrize("setting", [None, "-", "0"])
def test_where_it_is_off_there_is_no_such_command(door: Door, setting: str | None) -> None:
    del door.environ["SMTPAUTH"]
    door.environ |= {} if setting is None else {"SMTPAUTH": setting}
    client = Client(door)
    client.reply()
    assert b"AUTH" not in client.say(b"EHLO c")
    assert client.say(b"AUTH PLAIN " + PLAIN) == b"502 unimplemented (#5.5.1)\r\n"
    assert not (door.base / "asked").exists()


def test_sendmail_bs_offers_none(door: Door) -> None:
    door.environ |= {"SMTPAUTH": "!", "TCPREMOTEINFO": "sendmail-bs", "TCPREMOTEIP": "127.0.0.1"}
    client = greeted(door)
    assert client.say(b"AUTH PLAIN " + PLAIN).startswith(b"502 ")
    assert client.say(b"MAIL FROM:<a@b>") == b"250 ok\r\n"


@pytest.mark.parametrize(
    ("commands", "answer"),
    [
        pytest.param([b"AUTH GSSAPI"], b"504 ", id="another mechanism"),
        pytest.param([b"AUTH CRAM-MD5"], b"504 ", id="CRAM-MD5 where nobody said +cram"),
        pytest.param([b"AUTH"], b"504 ", id="no mechanism"),
        pytest.param([b"AUTH PLAIN", b"*"], b"501 auth exchange canceled", id="cancelled"),
        pytest.param([b"AUTH LOGIN", b"YW5u", b"*"], b"501 auth exchange canceled", id="cancelled late"),
        pytest.param([b"AUTH PLAIN ="], b"501 malformed", id="an empty response"),
        pytest.param([b"AUTH PLAIN \xff\xfe"], b"501 malformed", id="8-bit"),
        pytest.param([b"AUTH PLAIN " + b"QUFB" * 25_000], b"501 malformed", id="100 KiB"),
        pytest.param([b"AUTH LOGIN", b"QUFB" * 25_000], b"501 malformed", id="100 KiB later"),
        pytest.param([b"AUTH PLAIN " + PLAIN] * 2, b"503 you're already", id="twice"),
        pytest.param([b"MAIL FROM:<a@b>", b"AUTH PLAIN " + PLAIN], b"503 no auth during", id="after MAIL"),
        pytest.param([b"AUTH PLAIN " + base64.b64encode(b"\0a\r\nn\0pw")], b"535 ", id="line ends in the name"),
        pytest.param([b"AUTH LOGIN YQBi", b"cHc="], b"535 ", id="NUL in the name"),
        pytest.param([b"AUTH LOGIN YW5u", b"cABx"], b"535 ", id="NUL in the password"),
        pytest.param([b"AUTH PLAIN " + base64.b64encode(b"\0ann\0")], b"535 ", id="no password"),
        pytest.param([b"AUTH PLAIN " + base64.b64encode(b"\0ann\0" + b"p" * 600)], b"535 ", id="600 bytes"),
    ],
)
def test_bad_input(door: Door, commands: list[bytes], answer: bytes) -> None:
    client = greeted(door)
    replies = [client.say(command) for command in commands]
    assert replies[-1].startswith(answer)
    assert client.say(b"NOOP") == b"250 ok\r\n"
    client.say(b"QUIT")
    log = client.end()[2]
    assert all(len(line) < 400 and line.isascii() for line in log.splitlines())
    assert not any(word in log for word in ("QUFB", SECRET, PLAIN.decode()))


class TestRealClients:
    """What clients make of it, over STARTTLS as their users have them."""

    @pytest.fixture
    def port(self, door: Door, pem: Path) -> Iterator[int]:
        del door.environ["FORCETLS"]
        door.environ["SMTPAUTH"] = "!+cram"
        install(door, pem)
        servers = Servers()
        yield servers("-HRl0", "--", *map(str, door.command), **door.environ).port
        servers.end()

    def relayed(self, door: Door) -> None:
        assert b"Tc@elsewhere.test\0" in door.envelope()
        assert b"with ESMTPSA (" in (door.base / "message").read_bytes()

    def test_smtplib(self, door: Door, port: int, pem: Path) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=DEADLINE_S) as client:
            client.starttls(context=unnamed(pem))
            client.login("ann", SECRET)
            client.sendmail("a@b.test", ["c@elsewhere.test"], "Subject: x\n\ny\n")
        self.relayed(door)

    @pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
    def test_swaks(self, door: Door, port: int, method: str) -> None:
        if shutil.which("swaks") is None:
            pytest.skip("no swaks")
        command = ["swaks", "--server", "127.0.0.1", "--port", str(port), "-tls", "-a", method, "-au", "ann"]
        command += ["-ap", SECRET, "-f", "a@b.test", "-t", "c@elsewhere.test"]
        done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stdout
        self.relayed(door)

    def test_curl(self, door: Door, port: int) -> None:
        if shutil.which("curl") is None:
            pytest.skip("no curl")
        command = ["curl", "-sSk", "--ssl-reqd", f"smtp://127.0.0.1:{port}/c", "-u", f"ann:{SECRET}"]
        command += ["--login-options", "AUTH=PLAIN", "--mail-from", "a@b.test", "--mail-rcpt", "c@elsewhere.test"]
        done = subprocess.run([*command, "-T", "-"], input=b"Subject: x\r\n\r\ny\r\n", capture_output=True)
        assert done.returncode == 0, done.stderr
        self.relayed(door)

    @pytest.mark.parametrize("method", ["plain", "login"])
    def test_msmtp(self, door: Door, port: int, method: str, tmp_path: Path) -> None:
        if shutil.which("msmtp") is None:
            pytest.skip("no msmtp")
        settings = tmp_path / "msmtprc"
        settings.write_text(
            f"account x\nhost 127.0.0.1\nport {port}\ntls on\ntls_certcheck off\nauth {method}\nuser ann\n"
            f"password {SECRET}\nfrom a@b.test\n"
        )
        settings.chmod(0o600)
        command = ["msmtp", "-C", str(settings), "-a", "x", "c@elsewhere.test"]
        done = subprocess.run(command, input=b"Subject: x\n\ny\n", capture_output=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        self.relayed(door)


def unnamed(pem: Path) -> ssl.SSLContext:
    """A context for a client that knows no name of the server."""
    context = client_context(pem)
    context.check_hostname = False
    return context
