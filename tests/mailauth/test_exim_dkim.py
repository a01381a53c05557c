"""Exim takes what is signed here, and here is taken what Exim signs of the same message as it passes it on."""

import base64
import hashlib
import os
import re
import shutil
import smtplib
from collections.abc import Iterator

import pytest

from tests.integration.receivers import PEERS, Exim
from tests.mail_sink import MailSink, mail_sink
from tests.mailauth.test_dkim import ED, KEYS, NOW, RSA, public_record, results, signed
from tests.mailauth.test_opendkim import MESSAGES, START
from tests.nameserver import nameserver, own_network
from tests.remote.test_signatures import PEM

NOTHING_HASHED = b"bh=" + base64.b64encode(hashlib.sha256().digest())
FORMS = ("relaxed", "simple")  # each is a domain of recipients, and the form by which their mail is signed
ROUTER = """{form}:
  driver = manualroute
  domains = {form}.test
  transport = {form}
  route_list = * 127.0.0.1::{port}
  self = send
"""
TRANSPORT = """{form}:
  driver = smtp
  message_linelength_limit = 100000
  dkim_domain = a.example
  dkim_selector = r
  dkim_private_key = BASE/key
  dkim_canon = {form}
  dkim_sign_headers = +From:+Subject:To:Date
"""


class Signing(Exim):
    """Says of each signature what it is worth, signs in its turn, and passes on."""

    def __init__(self, sections: str, nameserver: str) -> None:
        super().__init__([], sections, nameserver=nameserver)

    def start_in_namespace(self, script: str) -> None:
        shutil.chown(self.write("key", PEM["r"].decode(), 0o400), 20990)
        super().start_in_namespace(script)

    QUEUEING = (
        f"exim_path = {PEERS}/usr/sbin/exim4\ndeliver_drop_privilege = true\nacl_smtp_dkim = dkim\n"
        "dkim_verify_signers = a.example"
    )
    ACL = Exim.ACL + (
        "dkim:\n  warn add_header = :at_start:X-Verified: $dkim_selector $dkim_algo $dkim_verify_status\n  accept\n"
    )


class Between:
    """Exim before a sink."""

    def __init__(self, sink: MailSink, port: int) -> None:
        self._sink = sink
        self._port = port

    def passed_on(self, message: bytes) -> dict[str, bytes]:
        """What arrives of ``message``, by each form, with LF line ends and without the dots of SMTP."""
        before = len(self._sink.taken)
        with smtplib.SMTP("127.0.0.1", self._port, timeout=60) as client:
            lines = message if message.endswith(b"\n") else message + b"\n"  # SMTP ends each line
            client.sendmail("s@a.example", [f"r@{form}.test" for form in FORMS], lines.replace(b"\n", b"\r\n"))
        self._sink.wait(lambda: len(self._sink.taken) == before + len(FORMS), "message by each form")
        found = {}
        for taken in self._sink.taken[before:]:
            text = taken.body.replace(b"\r\n..", b"\r\n.").replace(b"\r\n", b"\n")
            found[next(form for form in FORMS if b"; c=%b/" % form.encode() in text.partition(b";\n")[0])] = text
        assert set(found) == set(FORMS)
        return found


@pytest.fixture(scope="module")
def exim() -> Iterator[Between]:
    if not (PEERS / "usr/sbin/exim4").exists() or not shutil.which("nsd") or os.geteuid() != 0:
        assert "PYQMAIL_TESTS_WHOLE" not in os.environ, "needs an unpacked exim4, nsd and root"
        pytest.skip("needs an unpacked exim4, nsd and root")
    zone = [
        f"{name}._domainkey TXT {quoted(key)}" for name, key in (("r", public_record(RSA)), ("e", public_record(ED)))
    ]
    with mail_sink() as sink, nameserver(own_network() + ".25", {"a.example": zone}) as address:
        routers = "".join(ROUTER.format(form=form, port=sink.port) for form in FORMS)
        transports = "".join(TRANSPORT.format(form=form) for form in FORMS)
        server = Signing(f"begin routers\n{routers}begin transports\n{transports}", address)
        try:
            yield Between(sink, server.port)
        finally:
            server.stop()


def quoted(record: bytes) -> str:
    """A TXT record in strings that are short enough."""
    return " ".join(f'"{record[at : at + 250].decode()}"' for at in range(0, len(record), 250))


def verified(message: bytes) -> set[bytes]:
    """What Exim says of our two signatures."""
    return set(re.findall(rb"^X-Verified: (.*)$", message, re.MULTILINE))


@pytest.mark.parametrize(("header", "body"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_both_agree(exim: Between, header: bytes, body: bytes) -> None:
    for form, message in exim.passed_on(signed(START + header, body, KEYS, NOW)).items():
        assert verified(message) == {b"r rsa-sha256 pass", b"e ed25519-sha256 pass"}
        exims, *ours = results(message)
        if form == "simple" and exims == b"fail":  # no body is one line end there (RFC 6376 section 3.4.3)
            assert not body.strip(b"\n") and NOTHING_HASHED in message, "Exim 4.96 hashes nothing"
        else:
            assert exims == b"pass"
        assert ours == [b"pass", b"pass"]
        assert b"fail" in results(message.replace(b"Ann <ann@a", b"Ann <eve@a"))


def test_neither_takes_a_change(exim: Between) -> None:
    for message in exim.passed_on(signed(START, b"hello\n").replace(b"hello", b"hallo")).values():
        assert verified(message) == {b"r rsa-sha256 fail", b"e ed25519-sha256 fail"}
        assert results(message) == [b"pass", b"fail", b"fail"]


def test_a_bare_cr_is_signed_as_exim_sends_it(exim: Between) -> None:
    """Exim makes a line end of it. We never send one (tests/remote/test_signatures.py)."""
    for message in exim.passed_on(START + b"\none\rtwo\n").values():
        assert b"\n\none\ntwo\n" in message
        assert results(message) == [b"pass"]
