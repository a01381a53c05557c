"""Addresses in UTF-8 (RFC 6531): at the door, from and to Postfix and Exim, to a .qmail file, to any other server."""

import os
import shutil
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import USER
from tests.integration.mailhost import MailHost
from tests.integration.receivers import DOMAIN, PEERS, POSTFIX_SERVICES, Exim, Postfix, unpacked
from tests.mail_sink import Transaction, accept_all, mail_sink
from tests.waiting import wait_for

BOX = "δοκιμή"
TO = f"{USER}-{BOX}@bücher.test"
TEXT = f"Subject: πρώτο\r\nFrom: <{BOX}@far.test>\r\n\r\nhello\r\n".encode()
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("postfix", path="/usr/sbin:/usr/bin") is None, reason="needs root and postfix"
)


@pytest.fixture
def eai(host: MailHost) -> Iterator[MailHost]:
    """A host that takes such mail, for a domain that its files spell in ASCII."""
    control = host.home / "control"
    before = {name: (control / name).read_text() for name in ("locals", "rcpthosts")}
    for name, text in before.items():
        (control / name).write_text(text + "xn--bcher-kva.test\n")
    (control / "smtputf8").write_text("1\n")
    box = Path(f"/home/{USER}") if Path(f"/home/{USER}").exists() else Path(os.path.expanduser(f"~{USER}"))
    instructions = box / f".qmail-{BOX}"
    instructions.write_text("./Maildir/\n")
    shutil.chown(instructions, USER)
    for process in host.started[:1]:
        os.kill(process.pid, 1)  # HUP
    yield host
    instructions.unlink()
    (control / "smtputf8").unlink()
    for name, text in before.items():
        (control / name).write_text(text)
    (control / "smtproutes").unlink(missing_ok=True)


def the_message(maildir: Path) -> bytes:
    wait_for(lambda: os.listdir(maildir / "new"), "the message")
    (name,) = os.listdir(maildir / "new")
    return (maildir / "new" / name).read_bytes()


def test_an_address_in_utf_8_reaches_its_qmail_file(eai: MailHost, maildir: Path) -> None:
    with smtplib.SMTP("127.0.0.1", eai.port, timeout=30) as client:
        client.ehlo()
        assert client.has_extn("smtputf8")
        client.command_encoding = "utf-8"
        assert client.docmd(f"MAIL FROM:<{BOX}@far.test>")[0] == 550  # it has to say so
        assert client.docmd("MAIL FROM:<a@far.test> SMTPUTF8")[0] == 250
        client.command_encoding = "latin-1"
        assert client.docmd("RCPT TO:<\xe9@example.test>")[0] == 553
    with smtplib.SMTP("127.0.0.1", eai.port, timeout=30) as client:
        client.sendmail(f"{BOX}@far.test", [TO], TEXT, ["SMTPUTF8", "BODY=8BITMIME"])
    message = the_message(maildir)
    assert b" with UTF8SMTP;" in message and message.endswith(TEXT.replace(b"\r\n", b"\n"))
    assert f'Return-Path: <"{BOX}"@far.test>'.encode() in message


class RelayingPostfix(Postfix):
    """One that sends on what it takes."""

    SERVICES = POSTFIX_SERVICES + "smtp unix - - n - - smtp\n"


def test_postfix_hands_such_mail_on(eai: MailHost, maildir: Path) -> None:
    more = f"relayhost = [127.0.0.1]:{eai.port}\nsmtputf8_enable = yes\nsmtp_bind_address = 127.0.0.1\n"
    postfix = RelayingPostfix([], more)
    try:
        with smtplib.SMTP("127.0.0.1", postfix.port, timeout=30) as client:
            client.sendmail(f"{BOX}@far.test", [TO], TEXT, ["SMTPUTF8", "BODY=8BITMIME"])
        message = the_message(maildir)
    finally:
        postfix.stop()
    assert b" with UTF8SMTP;" in message and "πρώτο".encode() in message


class EaiExim(Exim):
    """One that sends on what it takes, such mail too."""

    QUEUEING = f"exim_path = {PEERS}/usr/sbin/exim4\ndeliver_drop_privilege = true\nsmtputf8_advertise_hosts = *"
    ROUTE = """
begin routers
out:
  driver = manualroute
  transport = out
  route_list = * 127.0.0.1::{port}
  self = send
begin transports
out:
  driver = smtp
"""


class StoringExim(Exim):
    """One that keeps it."""

    QUEUEING = "queue_only = true\nsmtputf8_advertise_hosts = *"


@pytest.mark.skipif(not unpacked("exim4"), reason="needs an unpacked exim4")
def test_exim_hands_such_mail_on_by_bdat(eai: MailHost, maildir: Path) -> None:
    (eai.home / "control/chunking").write_text("1\n")
    exim = EaiExim([], EaiExim.ROUTE.format(port=eai.port))
    try:
        with smtplib.SMTP("127.0.0.1", exim.port, timeout=30) as client:
            client.sendmail(f"{BOX}@far.test", [TO], TEXT.replace(b"hello", b"..hello"), ["SMTPUTF8", "BODY=8BITMIME"])
        message = the_message(maildir)
        wait_for(lambda: " K " in (exim.base / "log/mainlog").read_text(), "Exim's word for chunks")
    finally:
        exim.stop()
        (eai.home / "control/chunking").unlink()
    assert b" with UTF8SMTP;" in message and "πρώτο".encode() in message and message.endswith(b"\n\n..hello\n")


@pytest.mark.skipif(not unpacked("exim4"), reason="needs an unpacked exim4")
def test_exim_takes_such_mail_from_us(eai: MailHost) -> None:
    exim = StoringExim([BOX])
    try:
        (eai.home / "control/smtproutes").write_text(f":127.0.0.1:{exim.port}\n")
        submit(eai, f"{BOX}@{DOMAIN}")
        wait_for(lambda: exim.stored(BOX), "the message in Exim's queue")
        stored = exim.stored(BOX)
    finally:
        exim.stop()
    assert stored is not None and "πρώτο".encode() in stored


def submit(host: MailHost, recipient: str) -> None:
    """By sendmail, with the address in the header too."""
    command = [str(host.home / "bin/sendmail"), "-f", f"{BOX}@example.test", recipient]
    text = f"To: <{recipient}>\nSubject: πρώτο\n\nhello\n"
    subprocess.run(command, input=text.encode(), check=True, timeout=60)


def test_postfix_takes_such_mail_from_us(eai: MailHost) -> None:
    postfix = Postfix([BOX], "smtputf8_enable = yes\n")
    try:
        (eai.home / "control/smtproutes").write_text(f":127.0.0.1:{postfix.port}\n")
        submit(eai, f"{BOX}@{DOMAIN}")
        wait_for(lambda: postfix.stored(BOX), "the message in Postfix's Maildir")
        stored = postfix.stored(BOX)
    finally:
        postfix.stop()
    assert stored is not None and "πρώτο".encode() in stored


def knows_utf8(line: bytes, transaction: Transaction) -> bytes | None:
    return b"250-sink\r\n250 SMTPUTF8\r\n" if line.upper().startswith(b"EHLO") else accept_all(line, transaction)


def test_a_server_hears_smtputf8_only_where_it_knows_it(eai: MailHost) -> None:
    for answer in (knows_utf8, accept_all):
        with mail_sink(answer) as sink:
            (eai.home / "control/smtproutes").write_text(f":127.0.0.1:{sink.port}\n")
            submit(eai, "joe@bücher.example")
            if answer is knows_utf8:
                sink.wait(lambda: len(sink.taken) == 1, "the message")
            wait_for(lambda: eai.queued() == 0, "an empty queue")
            said = [line.strip() for line in sink.lines if line[:4] in (b"MAIL", b"RCPT")]
        if answer is knows_utf8:
            mail = f"MAIL FROM:<{BOX}@example.test> SMTPUTF8".encode()
            assert said == [mail, b"RCPT TO:<joe@xn--bcher-kva.example>"]
        else:
            assert not any(BOX.encode() in line for line in said) and b"does_not_know_SMTPUTF8" in eai.log.read_bytes()


@pytest.mark.parametrize("line", ["&joe@far.test", "| {home}/bin/forward joe@far.test"], ids=["qmail-local", "forward"])
def test_a_forward_says_smtputf8_too(eai: MailHost, line: str) -> None:
    instructions = Path(os.path.expanduser(f"~{USER}")) / ".qmail-fwd"
    instructions.write_text(line.format(home=eai.home) + "\n")
    shutil.chown(instructions, USER)
    with mail_sink(knows_utf8) as sink:
        (eai.home / "control/smtproutes").write_text(f":127.0.0.1:{sink.port}\n")
        with smtplib.SMTP("127.0.0.1", eai.port, timeout=30) as client:
            client.sendmail("ann@far.test", [f"{USER}-fwd@example.test"], TEXT, ["SMTPUTF8", "BODY=8BITMIME"])
        sink.wait(lambda: len(sink.taken) == 1, "the message")
        assert b"MAIL FROM:<ann@far.test> SMTPUTF8\r\n" in sink.lines
    instructions.unlink()


def test_a_domain_alone_in_utf_8_needs_no_smtputf8(eai: MailHost) -> None:
    with mail_sink() as sink:
        (eai.home / "control/smtproutes").write_text(f":127.0.0.1:{sink.port}\n")
        command = [str(eai.home / "bin/forward"), "joe@bücher.example"]
        environ = {"NEWSENDER": "ann@bücher.example", "DTLINE": "Delivered-To: x\n", "PATH": "/usr/bin:/bin"}
        subprocess.run(command, input=b"Subject: x\n\nx\n", check=True, timeout=60, env=environ)
        sink.wait(lambda: len(sink.taken) == 1, "the message")
        said = [line.strip() for line in sink.lines if line[:4] in (b"MAIL", b"RCPT")]
    assert said == [b"MAIL FROM:<ann@xn--bcher-kva.example>", b"RCPT TO:<joe@xn--bcher-kva.example>"]
