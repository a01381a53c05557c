"""MTA-STS: what a daemon says about a domain, and what becomes of its mail."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.failure import TemporaryFailure
from pyqmail.remote.message import Message
from pyqmail.remote.mta_sts import Sts, ask_policy
from pyqmail.remote.published import Published
from pyqmail.remote.security import Level, Security
from tests.loopback import free_port
from tests.mail_sink import Answer, accept_all
from tests.remote.policy_daemon import Answers, daemon, offers

ENFORCED = b"OK secure match=mx.x.test:.wild.test servername=hostname"


@pytest.mark.parametrize(
    ("answer", "policy"),
    [
        (ENFORCED, Sts((b"mx.x.test", b".wild.test"))),
        (b"NOTFOUND ", None),
        (b"OK may", None),
        (b"OK dane", None),
        (b"OK dane-only", Sts(())),
        (b"OK secure match=MX.x.test. servername=hostname policy_type=sts policy_ttl=5", Sts((b"mx.x.test",))),
    ],
)
def test_answers(answer: bytes, policy: Sts | None) -> None:
    asked: list[bytes] = []
    with daemon(answer, asked) as port:
        assert ask_policy(f"inet:127.0.0.1:{port}", b"x.test") == policy
        ask_policy(f"inet:127.0.0.1:{port}:QUERY", b"x.test")
    assert asked == [b"14:postfix x.test,", b"12:QUERY x.test,"]


@pytest.mark.parametrize("answer", [b"TEMP later", b"PERM no", b"TIMEOUT x", b"OK secure", b"OK odd match=x", b""])
def test_what_is_no_answer_is_temporary(answer: bytes) -> None:
    with daemon(answer) as port, pytest.raises(TemporaryFailure):
        ask_policy(f"inet:127.0.0.1:{port}", b"x.test")


@pytest.mark.parametrize("where", ["inet:127.0.0.1:{}", "unix:/nowhere/at/all", "unix:relative", "odd", "inet:x:y"])
def test_nobody_there_is_temporary(where: str) -> None:
    with pytest.raises(TemporaryFailure):
        ask_policy(where.format(free_port()), b"x.test")


@pytest.mark.parametrize(
    ("exchanger", "listed"),
    [(b"mx.x.test", True), (b"a.wild.test", True), (b"a.b.wild.test", False), (b"wild.test", False), (b"y", False)],
)
def test_a_wildcard_is_one_label(exchanger: bytes, listed: bool) -> None:
    assert Sts((b"mx.x.test", b".wild.test")).lists(exchanger) is listed


@pytest.mark.parametrize(
    ("answer", "exchanger", "trusted", "says"),
    [
        pytest.param(ENFORCED, b"mx.x.test", True, b"tls=TLSv1.3, verified by sts\n", id="as the policy asks"),
        pytest.param(ENFORCED, b"mx.x.test", False, b"TLS failed: certificate: self-signed", id="not trusted"),
        pytest.param(ENFORCED, b"a.wild.test", True, b"TLS failed: certificate: it is for another name", id="a name"),
        pytest.param(ENFORCED, b"mx.y.test", True, b"no exchanger that MTA-STS allows", id="not in the policy"),
        pytest.param(b"NOTFOUND ", b"mx.y.test", False, b"tls=TLSv1.3, opportunistic\n", id="no policy"),
        pytest.param(b"TEMP no", b"mx.x.test", True, b"Unable to learn the MTA-STS policy", id="not to be learnt"),
    ],
)
def test_mail_for_a_domain_with_a_policy(
    deliver: Callable[..., bytes], answer: bytes, exchanger: bytes, trusted: bool, says: bytes
) -> None:
    reports = deliver((answer, exchanger, trusted))
    assert says in reports and reports.startswith(b"r\0K") == says.startswith(b"tls=")


@pytest.mark.parametrize(
    ("answers", "offer", "says"),
    [
        pytest.param((ENFORCED, b"mx.x.test", True), offers, b"tls=TLSv1.3, verified by sts\n", id="as asked"),
        pytest.param(
            (ENFORCED, b"mx.x.test", False),
            offers,
            b"tls=TLSv1.3, opportunistic, rehearsal: sts: certificate: self-signed certificate\n",
            id="not trusted",
        ),
        pytest.param(
            (ENFORCED, b"mx.x.test", True),
            accept_all,
            b"tls=none, rehearsal: sts: STARTTLS is not offered\n",
            id="no TLS",
        ),
        pytest.param(
            (ENFORCED, b"mx.y.test", True),
            offers,
            b"opportunistic, rehearsal: published policy: Sorry, no exchanger that MTA-STS allows took a connection.",
            id="not in the policy",
        ),
        pytest.param(
            (b"TEMP no", b"mx.x.test", True),
            offers,
            b"opportunistic, rehearsal: published policy: Unable to learn the MTA-STS policy",
            id="not to be learnt",
        ),
    ],
)
def test_a_rehearsal_says_what_would_have_waited(
    deliver: Callable[..., bytes], answers: Answers, offer: Answer, says: bytes
) -> None:
    reports = deliver(answers, offer, tlspolicy="say")
    assert says in reports and reports.startswith(b"r\0K"), reports


def test_another_word_in_tlspolicy_makes_mail_wait(deliver: Callable[..., bytes]) -> None:
    assert deliver((ENFORCED, b"mx.x.test", True), tlspolicy="maybe").startswith(b"ZUnable to read control files")


def test_a_message_can_waive_what_is_published() -> None:
    def ask(domain: bytes) -> Sts:
        raise AssertionError("asked all the same")

    published = Published(b"x.test", sts=ask, dane=lambda: b"never", waived=lambda: True)
    assert published.of(b"mx.y.test", Security(Level.MAY)) == Security(Level.MAY)
    assert published.of(b"mx.y.test", Security(Level.DANE)) == Security(Level.MAY)


@pytest.mark.parametrize(
    ("message", "waives"),
    [
        (b"TLS-Required: No\n\n", True),
        (b"Subject: x\r\ntls-required:no \r\n\r\n", True),
        (b"Subject: x\n\nTLS-Required: No\n", False),
        (b"TLS-Required: Yes\n\n", False),
        (b"X-TLS-Required: No\n\n", False),
        (b"", False),
    ],
)
def test_what_waives_it(tmp_path: Path, message: bytes, waives: bool) -> None:
    (tmp_path / "message").write_bytes(message)
    with (tmp_path / "message").open("rb", buffering=0) as file:
        found = Message(file.fileno())
        assert found.waives_policies() is waives
        assert b"".join(found.pieces()) == message
