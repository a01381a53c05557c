"""A message with REQUIRETLS goes to verified servers that offer it, and nowhere else (RFC 8689 section 4.2.1).

At the door: tests/incoming/test_security.py (sections 2 and 4.1). Bounces: test_qmail_send_dsn.py (section 5).
Forwards: tests/policy/test_forwards.py (section 6). TLS-Required: tests/remote/test_mta_sts.py (section 3).
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.failure import PermanentFailure, TemporaryFailure
from pyqmail.formats.facts import Facts, format_facts
from pyqmail.remote.controls import read_controls
from pyqmail.remote.outlasting import Outlasting
from pyqmail.remote.routes import Route
from pyqmail.remote.security import BY_DANE, BY_DANE_ALONE, BY_STS, LeftOut, Level, Policies, Security, TlsControls
from tests.certificates import self_signed, server_context, signed_by
from tests.mail_sink import Transaction, accept_all, mail_sink
from tests.programs.test_remote_tls import NAME, to_one
from tests.remote.one_transaction import one_transaction
from tests.scripted_peers import remote_home

FACTS = format_facts(Facts(requiretls=True), b"s@y.test")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority (ca.test), and what it signed for mx.test."""
    folder = tmp_path_factory.mktemp("pki")
    signed_by(self_signed(folder, "ca.test"), folder, NAME)
    return folder


Answer = Callable[[bytes, Transaction], bytes | None]


def offering(*words: bytes) -> Answer:
    """A server with these extensions."""
    lines = [b"sink", *words]
    said = b"".join(b"250-%b\r\n" % line for line in lines[:-1]) + b"250 %b\r\n" % lines[-1]
    return lambda line, transaction: said if line[:4].upper() == b"EHLO" else accept_all(line, transaction)


ALL = offering(b"STARTTLS", b"REQUIRETLS")


@pytest.mark.parametrize(
    ("answer", "facts", "says"),
    [
        pytest.param(ALL, FACTS, b"r\0K127.0.0.1 accepted message.", id="it is offered"),
        pytest.param(ALL, b"", b"r\0K127.0.0.1 accepted message.", id="nobody asks for it"),
        pytest.param(
            offering(b"STARTTLS"), FACTS, b"D127.0.0.1 does not offer REQUIRETLS, which this message needs. (#5.7.30)",
            id="it is not offered",
        ),
        pytest.param(
            offering(b"REQUIRETLS"), FACTS, b"D127.0.0.1 offers no TLS, which this message needs. (#5.7.10)\n",
            id="there is no TLS",
        ),
    ],
)  # fmt: skip
def test_where_it_goes(tmp_path: Path, pki: Path, answer: Answer, facts: bytes, says: bytes) -> None:
    lines = f"*:may|{pki / 'ca.test-ecdsa.pem'}"  # a route, whose name is the administrator's own
    with mail_sink(answer, context=server_context(pki / "mx.test-ecdsa.pem")) as sink:
        reports = to_one(tmp_path, sink, facts, tlsdestinations=lines)
        assert reports.startswith(says), reports
        assert len(sink.taken) == (b"accepted" in says)
        (mail,) = [line for line in sink.lines if line.startswith(b"MAIL")] or [b""]
    assert mail.endswith(b" REQUIRETLS\r\n") == bool(facts and mail)
    assert not facts or b"verified by requiretls" in reports or not mail


def test_a_certificate_that_does_not_verify_puts_it_off(tmp_path: Path, pki: Path) -> None:
    with mail_sink(ALL, context=server_context(self_signed(tmp_path, NAME))) as sink:
        reports = to_one(tmp_path, sink, FACTS, tlsdestinations=f"*:may|{pki / 'ca.test-ecdsa.pem'}")
        assert reports.startswith(b"ZConnected to 127.0.0.1 but TLS failed: certificate: ") and not sink.taken


def of(found: Security, route: Route | None = None) -> Security:
    """What is asked of mx.test where ``found`` would be asked for any message."""

    class Found(Policies):
        def _asked_of(self, name: bytes) -> Security:
            return found

    policies = Found(TlsControls("/h"), {}, b"x.test", route)
    policies.requires_tls = True
    return policies.of(b"mx.test")


@pytest.mark.parametrize("by", [BY_DANE, BY_STS, b"file"])
def test_a_name_that_somebody_vouches_for_will_do(by: bytes) -> None:
    found = Security(Level.VERIFY, (b"mx.test",), by=by)
    assert of(found) is found


@pytest.mark.parametrize(
    ("found", "final"),
    [
        pytest.param(Security(Level.MAY), True, id="nothing is known of it"),
        pytest.param(Security(Level.NONE), True, id="it has no TLS"),
        pytest.param(Security(Level.ENCRYPT, by=BY_DANE), True, id="no record can be used"),
        pytest.param(Security(Level.DANE, (b"mx.test",), by=BY_DANE_ALONE), True, id="its name is not signed"),
        pytest.param(Security(Level.MAY, note=b"no dane: it does not validate"), False, id="the resolver is at fault"),
    ],
)
def test_any_other_is_left_out(found: Security, final: bool) -> None:
    with pytest.raises(LeftOut) as left_out:
        of(found)
    assert left_out.value.final is final


def test_a_relay_is_verified_by_the_name_that_the_route_has() -> None:
    found = of(Security(Level.MAY, authorities="/ca.pem"), Route(b"mx.test", 25))
    assert found == Security(Level.VERIFY, (b"mx.test",), "/ca.pem", by=b"requiretls")


@pytest.mark.parametrize("others", [False, True])
def test_it_fails_only_where_no_exchanger_is_left_that_may_take_it(others: bool) -> None:
    from pyqmail.remote.attempts import Attempts

    attempts = object.__new__(Attempts)
    attempts._left_out, attempts._others = LeftOut(b"text", final=True), others
    assert type(attempts._no_connection()) is (TemporaryFailure if others else PermanentFailure)


@pytest.mark.parametrize(
    ("sender", "offers", "mail", "refused"),
    [
        pytest.param(b"s@y.test", [b"REQUIRETLS"], b"MAIL FROM:<s@y.test> REQUIRETLS", b"", id="4.2.1 item 5"),
        pytest.param(b"s@y.test", [], b"", b"#5.7.30", id="4.2.1: not to who does not offer it"),
        pytest.param(b"", [b"REQUIRETLS"], b"MAIL FROM:<> REQUIRETLS", b"", id="5: a bounce says it"),
        pytest.param(b"", [], b"MAIL FROM:<>", b"", id="5: and is not lost where it is not offered"),
    ],
)
def test_what_is_said(tmp_path: Path, sender: bytes, offers: list[bytes], mail: bytes, refused: bytes) -> None:
    commands, report = one_transaction(tmp_path, Facts(requiretls=True), sender, [b"r@x.test"], offers)
    assert b"".join(commands[:1]) == mail and refused in report and bool(report) == bool(refused)


def test_tls_required_no_says_nothing_beside_it(tmp_path: Path) -> None:
    """Section 4.1: the field is ignored, so that the domain's policy is asked for."""
    controls = read_controls(str(remote_home(tmp_path, mtasts="inet:127.0.0.1:1")))  # nobody answers there
    usual, strict = (
        Outlasting().published(controls, b"x.test", None, lambda: True, strict=strict) for strict in (False, True)
    )
    assert usual is not None and usual.of(b"mx.test", Security(Level.MAY)) == Security(Level.MAY)
    with pytest.raises(TemporaryFailure):
        assert strict is not None and strict.of(b"mx.test", Security(Level.MAY))
