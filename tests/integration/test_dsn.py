"""What a sender wants to hear of a message: from sendmail, mutt and SMTP clients to the notice or the next server."""

import email
import email.message
import email.policy
import os
import shutil
import smtplib
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import USER
from tests.integration.mailhost import MailHost
from tests.mail_sink import Transaction, accept_all, mail_sink
from tests.waiting import wait_for

ADDRESS = f"{USER}@example.test"
TEXT = "Subject: x\r\n\r\nhello\r\n"


@pytest.fixture
def relay(host: MailHost) -> int:
    """The port of a second door, whose clients may relay."""
    public, host.port = host.port, 0
    host.start_smtp(RELAYCLIENT="")
    port, host.port = host.port, public
    return port


def notices(maildir: Path) -> list[email.message.Message]:
    """Those that have arrived."""
    found = [
        email.message_from_bytes((maildir / "new" / name).read_bytes(), policy=email.policy.default)
        for name in os.listdir(maildir / "new")
    ]
    return [message for message in found if message.get_content_type() == "multipart/report"]


def the_notice(maildir: Path) -> email.message.Message:
    wait_for(lambda: notices(maildir), "a notice")
    (message,) = notices(maildir)
    return message


def recipient_fields(message: email.message.Message) -> email.message.Message:
    return message.get_payload()[1].get_payload()[1]  # type: ignore[index,union-attr,return-value]


def sendmail(host: MailHost, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(host.home / "bin/sendmail"), "-f", ADDRESS, *words]
    return subprocess.run(command, input=b"Subject: x\n\nhello\n", capture_output=True, timeout=60, check=False)


def test_sendmail_passes_wishes_on_and_success_is_told(host: MailHost, maildir: Path) -> None:
    assert sendmail(host, "-N", "success,delay", "-R", "hdrs", "-V", "my+2Did", ADDRESS).returncode == 0
    message = the_notice(maildir)
    assert message["Subject"] == "delivery notice" and message["From"] == "MAILER-DAEMON@mx.example.test"
    assert recipient_fields(message)["Action"] == "delivered"
    assert "Original-Envelope-Id: my-id" in str(message)
    wait_for(lambda: host.queued() == 0, "an empty queue")
    assert not [path for path in (host.home / "queue/pyqmail/facts").rglob("*") if path.is_file()]


def test_sendmail_refuses_what_is_no_wish(host: MailHost) -> None:
    for words in (("-N", "always"), ("-R", "some"), ("-V", "not xtext"), ("-N", "never,delay")):
        done = sendmail(host, *words, ADDRESS)
        assert done.returncode == 100 and done.stderr.startswith(b"sendmail: -")


def test_mutts_dsn_notify(host: MailHost, maildir: Path) -> None:
    settings = [f'set sendmail="{host.home}/bin/sendmail -oem -oi"', "set copy=no", f"set from={ADDRESS}"]
    settings += ["set use_envelope_from=yes", "set dsn_notify=failure,success", "set dsn_return=full"]
    words = [word for setting in settings for word in ("-e", setting)]
    subprocess.run(
        ["mutt", "-n", "-F", "/dev/null", *words, "-s", "by mutt", "--", ADDRESS, "nobody-here@example.test"],
        input=b"hello\n", check=True, timeout=60, env={**os.environ, "HOME": "/nonexistent"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(notices(maildir)) == 2, "a notice and a bounce")
    assert sorted(recipient_fields(message)["Action"] for message in notices(maildir)) == ["delivered", "failed"]


def test_dsn_is_for_who_may_relay_and_the_public_hears_of_no_success(host: MailHost, relay: int, maildir: Path) -> None:
    public = host.home / "control/dsnpublic"
    for port, offered in ((host.port, False), (host.port, True), (relay, True)):
        if offered and port == host.port:
            public.write_text("1\n")
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.ehlo()
            assert client.has_extn("dsn") is offered
            client.sendmail(ADDRESS, [ADDRESS], TEXT, ["RET=HDRS"], ["NOTIFY=SUCCESS", "ORCPT=rfc822;x>y@z"])
        public.unlink(missing_ok=True)
    assert recipient_fields(the_notice(maildir))["Original-Recipient"] == "rfc822; x>y@z"
    wait_for(lambda: host.queued() == 0, "an empty queue")
    assert len(notices(maildir)) == 1 and len(os.listdir(maildir / "new")) == 4


def test_malformed_wishes_are_refused_and_forget_nothing(relay: int) -> None:
    with smtplib.SMTP("127.0.0.1", relay, timeout=30) as client:
        client.ehlo()
        for words in ("RET=SOME", "RET=FULL RET=FULL", "ENVID=" + "x" * 10240, "ENVID=a+0d+0a"):
            assert client.docmd(f"MAIL FROM:<{ADDRESS}> {words}")[0] == 501
        assert client.docmd(f"MAIL FROM:<{ADDRESS}>")[0] == 250
        for words in ("NOTIFY=MAYBE", "NOTIFY=NEVER NOTIFY=NEVER", "ORCPT=none"):
            assert client.docmd(f"RCPT TO:<{ADDRESS}> {words}")[0] == 501
        orcpt = "rfc822;" + "x" * 480
        codes = [client.docmd(f"RCPT TO:<{ADDRESS}> ORCPT={orcpt}")[0] for _ in range(70)]
        assert codes[:50] == [250] * 50 and codes[-1] == 452
        assert client.docmd(f"RCPT TO:<{ADDRESS}>")[0] == 250  # of whom there is nothing to say


def offering(line: bytes, transaction: Transaction) -> bytes | None:
    """A server that knows DSN."""
    return b"250-sink\r\n250 DSN\r\n" if line.upper().startswith(b"EHLO") else accept_all(line, transaction)


@pytest.mark.parametrize("offers", [True, False])
def test_wishes_are_passed_on_to_who_knows_them_else_the_relay_is_told(
    host: MailHost, relay: int, maildir: Path, offers: bool
) -> None:
    routes = host.home / "control/smtproutes"
    with mail_sink(offering if offers else accept_all) as sink:
        routes.write_text(f":127.0.0.1:{sink.port}\n")
        try:
            with smtplib.SMTP("127.0.0.1", relay, timeout=30) as client:
                to = ["a@far.test", "b@far.test"]
                client.ehlo()
                client.mail(ADDRESS, ["RET=HDRS", "ENVID=e+2B1"])
                client.rcpt(to[0], ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;o@x"])
                client.rcpt(to[1], [])
                client.data(TEXT)
            sink.wait(lambda: len(sink.taken) == 2, "two messages")
            wait_for(lambda: host.queued() == 0, "an empty queue")
        finally:
            routes.unlink()
    said = sorted(line.strip() for line in sink.lines if line[:4] in (b"MAIL", b"RCPT"))
    if offers:
        assert said == [
            b"MAIL FROM:<%b> RET=HDRS ENVID=e+2B1" % ADDRESS.encode(),
            b"MAIL FROM:<%b> RET=HDRS ENVID=e+2B1" % ADDRESS.encode(),
            b"RCPT TO:<a@far.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@x",
            b"RCPT TO:<b@far.test>",
        ]
        assert not notices(maildir) and b"The_other_server_was_asked" in host.log.read_bytes()
    else:
        assert not any(b" RET=" in line or b"NOTIFY" in line for line in said)
        fields = recipient_fields(the_notice(maildir))
        assert fields["Action"] == "relayed" and fields["Original-Recipient"] == "rfc822; o@x"


# by RFC 3461 section: the lines of a .qmail file, what is said of whom they forward to, and what the sender is told
FORWARDS = [
    ("5.2.7.1", "list", "&1@far.test\n", {"1": ""}, "delivered"),  # has an owner
    ("5.2.7.2", "one", "&2@far.test\n", {"2": " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@x"}, ""),
    (
        "5.2.7.3 c",
        "two",
        "&3@far.test\n&4@far.test\n",
        dict.fromkeys("34", " NOTIFY=DELAY ORCPT=rfc822;o@x"),
        "expanded",
    ),
    ("5.2.7.3 c", "more", "|exit 0\n&5@far.test\n", {"5": " NOTIFY=DELAY ORCPT=rfc822;o@x"}, "expanded"),
    ("5.2.7.3", "program", "|{home}/bin/forward 6@far.test\n", {"6": " NOTIFY=DELAY ORCPT=rfc822;o@x"}, "delivered"),
]


def test_a_forward_passes_on_what_rfc_3461_says(host: MailHost, relay: int, maildir: Path) -> None:
    home = Path(os.path.expanduser(f"~{USER}"))
    files = {f".qmail-dsn-{name}": lines.format(home=host.home) for _, name, lines, _, _ in FORWARDS}
    files[".qmail-dsn-list-owner"] = "#\n"
    routes = host.home / "control/smtproutes"
    with mail_sink(offering) as sink:
        routes.write_text(f":127.0.0.1:{sink.port}\n")
        try:
            for name, text in files.items():
                (home / name).write_text(text)
                shutil.chown(home / name, USER)
            with smtplib.SMTP("127.0.0.1", relay, timeout=30) as client:
                to = [f"{USER}-dsn-{name}@example.test" for _, name, _, _, _ in FORWARDS]
                wishes = ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;o@x"]
                client.sendmail(ADDRESS, to, TEXT, ["RET=HDRS", "ENVID=e"], wishes)
            sink.wait(lambda: len(sink.taken) == sum(len(said) for _, _, _, said, _ in FORWARDS), "all forwards")
            wait_for(lambda: host.queued() == 0, "an empty queue")
        finally:
            routes.unlink()
            for name in files:
                (home / name).unlink(missing_ok=True)
    told = {
        str(recipient_fields(each)["Final-Recipient"]): recipient_fields(each)["Action"] for each in notices(maildir)
    }
    heard = [line.strip().decode() for line in sink.lines]
    for (section, _, _, said, action), alias in zip(FORWARDS, to, strict=True):
        for name, parameters in said.items():
            assert f"RCPT TO:<{name}@far.test>{parameters}" in heard, section
        assert told.get(f"rfc822; {alias}", "") == action, section
    senders = [line for line in heard if line.startswith("MAIL")]
    assert sorted(set(senders)) == [
        f"MAIL FROM:<{USER}-dsn-list-owner@example.test>",
        f"MAIL FROM:<{ADDRESS}> RET=HDRS ENVID=e",
    ] and len(senders) == len(sink.taken)  # fmt: skip
