"""Signing is no oracle: the trace above a message says whether we vouch for it."""

import os
from pathlib import Path

import pytest

from pyqmail.mailauth.canonical import parse_fields
from pyqmail.mailauth.results import format_results
from pyqmail.mailauth.vouching import has_keys, user_result, vouched

FROM = b"From: Ann <ann@a.example>\nSubject: s\n"
QUEUED = b"Received: (qmail 7 invoked from network); 1 Jan 2026 00:00:00 -0000\n"
RESENT = b"Received: (qmail 8 invoked by uid 500); 1 Jan 2026 00:00:01 -0000\nDelivered-To: joe@a.example\n"
PASS = b"Authentication-Results: me.test;\n\tspf=none smtp.mailfrom=x@x.test;\n\tdmarc=pass header.from=a.example\n"
AUTH = b"ann"
LOCAL = (
    b"Received: from localhost (HELO x) (sendmail-bs@127.0.0.1)\n"
    b"  by localhost with SMTP (relay client); 1 Jan 2026 00:00:00 -0000\n"
)


def session(with_: bytes) -> bytes:
    return b"Received: from c.test (HELO x) (192.0.2.1)\n  by me.test with " + with_ + b"; 1 Jan 2026 00:00:00 -0000\n"


def results(user: bytes, author: bytes = b"a.example") -> bytes:
    return format_results(b"me.test", [user_result(user, author)])


@pytest.mark.parametrize(
    ("trace", "signed"),
    [
        pytest.param(b"", True, id="no trace, as a bounce"),
        pytest.param(RESENT, True, id="a local sender"),
        pytest.param(QUEUED + session(b"SMTP"), False, id="a stranger"),
        pytest.param(RESENT + QUEUED + session(b"ESMTPS (X encrypted)"), False, id="a stranger, forwarded"),
        pytest.param(RESENT + QUEUED + session(b"QMTP"), False, id="a stranger by QMTP"),
        pytest.param(RESENT + QUEUED + PASS + session(b"SMTP"), True, id="a stranger for whom DMARC passed"),
        pytest.param(QUEUED + PASS.replace(b"=pass", b"=fail") + session(b"SMTP"), False, id="DMARC failed"),
        pytest.param(QUEUED + PASS.replace(b"=a.", b"=b.") + session(b"SMTP"), False, id="DMARC of another domain"),
        pytest.param(QUEUED + PASS.replace(b"me.test", b"x.test") + session(b"SMTP"), False, id="of another host"),
        pytest.param(QUEUED + session(b"SMTP") + PASS, False, id="results that the client wrote"),
        pytest.param(QUEUED + session(b"SMTP") + session(b"ESMTPA"), False, id="a session that the client wrote"),
        pytest.param(QUEUED + session(b"ESMTPSA (X encrypted)"), False, id="a user of whom nobody said what is his"),
        pytest.param(QUEUED + results(AUTH) + session(b"ESMTPSA (X encrypted)"), True, id="a user"),
        pytest.param(QUEUED + results(AUTH, b"b.example") + session(b"ESMTPA"), False, id="another's From"),
        pytest.param(QUEUED + results(AUTH, b"") + session(b"ESMTPA"), False, id="a From that no user may use"),
        pytest.param(QUEUED + session(b"ESMTPA") + results(AUTH), False, id="what the user wrote"),
        pytest.param(RESENT + session(b"SMTP (relay client)"), False, id="a relay client of another host, fetched"),
        pytest.param(RESENT + LOCAL, True, id="sendmail -bs"),
        pytest.param(QUEUED + session(b"SMTP (relay client)"), True, id="a relay client"),
        pytest.param(QUEUED + session(b"ESMTPS (X encrypted) (relay client)"), True, id="a relay client in TLS"),
        pytest.param(QUEUED + session(b"QMQP"), True, id="a client of QMQP"),
        pytest.param(RESENT + session(b"ESMTPA"), False, id="fetched mail that a program put in"),
        pytest.param(RESENT + PASS + session(b"SMTP"), False, id="results in mail that a program put in"),
        pytest.param(RESENT + b"Mailing-List: contact l\n", False, id="a list that took the trace away"),
    ],
)
def test_signing_is_no_oracle(trace: bytes, signed: bool) -> None:
    assert vouched(parse_fields(trace + FROM), b"a.example", b"me.test") is signed


@pytest.mark.parametrize("with_", [b"SMTP", b"QMQP"])
def test_what_a_server_hands_on_has_only_its_own_field_on_top(with_: bytes) -> None:
    fields = parse_fields(session(with_) + FROM)
    assert vouched(fields, b"a.example", b"me.test", entered=True) is (with_ == b"QMQP")
    assert not vouched(parse_fields(session(b"SMTP") + results(AUTH) + FROM), b"a.example", b"me.test", entered=True)


def test_keys_sign_for_their_domain_and_those_below(tmp_path: Path) -> None:
    (tmp_path / "control/domainkeys/a.example").mkdir(parents=True)
    home = str(tmp_path)
    assert has_keys(home, b"a.example") and has_keys(home, b"x.y.a.example")
    assert not has_keys(home, b"ba.example") and not has_keys(home, b"example")
    if os.geteuid() != 0:
        (tmp_path / "control/domainkeys").chmod(0)
        assert has_keys(home, b"b.example")
        (tmp_path / "control/domainkeys").chmod(0o755)
