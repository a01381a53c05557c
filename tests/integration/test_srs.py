"""SRS through the whole host: forwards leave with an address of ours, bounces find their way back, nobody relays."""

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.mailauth.srs import DAY_S, Srs
from tests.integration.mailhost import MailHost, install
from tests.mail_sink import MailSink, Transaction, mail_sink
from tests.public_directory import public_directory
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root: delivers as several users")
JOE = 39431  # nobody's
SECRET = b"not known to strangers"
OURS = Srs(b"srs.test", (SECRET,))
ANN = b"ann@orig.test"


class Forwarder:
    """A running host with SRS whose remote mail all goes to a sink."""

    def __init__(self, host: MailHost, sink: MailSink, base: Path) -> None:
        self.host = host
        self.sink = sink
        self.base = base

    def inject(self, sender: bytes, recipient: str) -> None:
        """Mail that is here already."""
        words = [self.host.home / "bin" / "qmail-inject", "-f", sender, "--", recipient]
        subprocess.run(words, input=b"Subject: x\n\nx\n", env=self.host.environ(), check=True, timeout=60)

    def next(self) -> Transaction:
        """What comes out after what has come out until now."""
        before = self.before
        self.sink.wait(lambda: len(self.sink.taken) > before, "message at the sink")
        self.before += 1
        return self.sink.taken[before]

    before = 0

    def rcpt(self, recipient: bytes, sender: bytes = b"", data: bool = False) -> bytes:
        """The reply to RCPT of a stranger."""
        with socket.create_connection(("127.0.0.1", self.host.port), 60) as sock:
            stream = sock.makefile("rwb")
            words = [b"HELO peer.test", b"MAIL FROM:<" + sender + b">", b"RCPT TO:<" + recipient + b">"]
            stream.readline()
            for word in words:
                stream.write(word + b"\r\n")
                stream.flush()
                reply = stream.readline()
            if data:
                stream.write(b"DATA\r\n")
                stream.flush()
                stream.readline()
                stream.write(b"Subject: bounce\r\n\r\nx\r\n.\r\nQUIT\r\n")
                stream.flush()
                assert stream.readline().startswith(b"250")
        return reply


def own(path: Path, text: str, uid: int, mode: int = 0o644) -> None:
    """A file of a user's."""
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, uid, uid)


@pytest.fixture(scope="module")
def forwarder() -> Iterator[Forwarder]:
    alias = pwd.getpwnam("alias").pw_uid
    with public_directory() as base, mail_sink() as sink:
        home = base / "qmail"
        install(home, me="mx.test\n", locals="here.test\n", rcpthosts="here.test\nsrs.test\n", srs_domain="srs.test\n",
                virtualdomains="srs.test:srs\n", smtproutes=f":127.0.0.1:{sink.port}\n")  # fmt: skip
        own(home / "control" / "srs_secrets", SECRET.decode() + "\n", alias, 0o400)
        for name, uid in (("joe", JOE), ("alias", alias)):
            (base / name).mkdir()
            os.chown(base / name, uid, uid)
        own(base / "alias" / ".qmail-srs-default", "| srsfilter\n", alias)
        for name, text in (
            ("away", "&bob@away.test\n"),
            ("program", "| forward bob@away.test\n"),
            ("redirect", "| condredirect bob@away.test true\n"),
            ("list", "&bob@away.test\n"),
            ("list-owner", "./Mailbox\n"),
        ):
            own(base / "joe" / f".qmail-{name}", text, JOE)
        lines = f"+joe-:joe:{JOE}:{JOE}:{base}/joe:-::\n+:alias:{alias}:{alias}:{base}/alias:-::\n.\n"
        (home / "users" / "assign").write_text(lines)
        subprocess.run([home / "bin" / "qmail-newu"], check=True)
        host = MailHost(home)
        host.log.touch()
        host.start_delivery()
        host.start_smtp()
        yield Forwarder(host, sink, base)
        host.stop()


@pytest.mark.parametrize("name", ["away", "program", "redirect"])
def test_a_forward_leaves_with_our_address_and_its_bounce_comes_back(forwarder: Forwarder, name: str) -> None:
    forwarder.inject(ANN, f"joe-{name}@here.test")
    sender = forwarder.next().sender.strip(b"<>")
    assert sender.startswith(b"SRS0=") and sender.endswith(b"=orig.test=ann@srs.test")
    assert OURS.reverse(sender.rpartition(b"@")[0], time.time()) == ANN
    assert forwarder.rcpt(sender, data=True).startswith(b"250")
    back = forwarder.next()
    assert (back.sender, back.recipients) == (b"<>", [b"<ann@orig.test>"])


@pytest.mark.parametrize(
    ("sender", "name", "expected"),
    [
        pytest.param(ANN, "list", b"<joe-list-owner@here.test>", id="a list has its owner's address as ever"),
        pytest.param(b"sue@here.test", "away", b"<sue@here.test>", id="our own senders stay"),
        pytest.param(b"", "away", b"<>", id="bounces have no sender"),
    ],
)
def test_what_is_not_rewritten(forwarder: Forwarder, sender: bytes, name: str, expected: bytes) -> None:
    forwarder.inject(sender, f"joe-{name}@here.test")
    assert forwarder.next().sender == expected


@pytest.mark.parametrize(
    "recipient",
    [
        pytest.param(b"SRS0=aaaa=AA=victim.test=bob@srs.test", id="a made-up hash"),
        pytest.param(b"srs1=aaaa=victim.test==aaaa=AA=x=bob@SRS.test", id="a made-up hash of a second forwarder"),
        pytest.param(OURS.forward(ANN, time.time() - 23 * DAY_S), id="too old"),
        pytest.param(Srs(b"srs.test", (b"other",)).forward(ANN, time.time()), id="another secret"),
        pytest.param(OURS.forward(ANN, time.time()).replace(b"orig", b"victim"), id="another domain"),
        pytest.param(b"bob%victim.test@srs.test", id="no SRS address at all"),
        pytest.param(b"postmaster@srs.test", id="an address that only the default file would take"),
    ],
)
def test_nobody_relays_through_it(forwarder: Forwarder, recipient: bytes) -> None:
    assert forwarder.rcpt(recipient, b"spam@spam.test").startswith(b"550 ")
    forwarder.inject(b"joe-list-owner@here.test", recipient.decode())  # past the door: srsfilter has the last word
    wait_for(lambda: forwarder.host.queued() == 0, "an empty queue")
    assert len(forwarder.sink.taken) == forwarder.before
    assert b"srsfilter:_fatal:_no_mail_was_forwarded" in forwarder.host.log.read_bytes()


def test_secrets_that_cannot_be_read_make_mail_wait_and_new_ones_are_taken(forwarder: Forwarder) -> None:
    secrets = forwarder.host.home / "control" / "srs_secrets"
    good = OURS.forward(ANN, time.time())
    assert forwarder.rcpt(good).startswith(b"250 ")
    secrets.chmod(0o444)
    wait_for(lambda: forwarder.rcpt(good).startswith(b"451 "), "451 for what nobody can judge")
    wait_for(lambda: defers(forwarder), "a forward that waits")
    own(secrets, "new\n" + SECRET.decode() + "\n", pwd.getpwnam("alias").pw_uid, 0o400)
    wait_for(lambda: forwarder.rcpt(good).startswith(b"250 "), "a qmail-rcptd with the new secrets")
    assert forwarder.rcpt(b"SRS0=aaaa=AA=victim.test=bob@srs.test").startswith(b"550 ")
    wait_for(lambda: gone_out(forwarder), "the forward, with the new secret")
    sender = forwarder.next().sender.strip(b"<>")
    assert Srs(b"srs.test", (b"new",)).made(sender.rpartition(b"@")[0], time.time())


def defers(forwarder: Forwarder) -> bool:
    """Whether mail waits that would have been forwarded; one more is sent where it does not yet."""
    if b"its_sender_cannot_be_rewritten_now" in forwarder.host.log.read_bytes():
        return True
    if not forwarder.host.queued():
        forwarder.before = len(forwarder.sink.taken)
        forwarder.inject(ANN, "joe-away@here.test")
    return False


def gone_out(forwarder: Forwarder) -> bool:
    """Whether something new is at the sink; what waits is tried now. qmail-lspawn looks at the files once a second."""
    forwarder.host.started[0].send_signal(signal.SIGALRM)
    return len(forwarder.sink.taken) > forwarder.before
