"""Checks and sessions as values: order, evidence, what is told when, and a message that waits for its verdict."""

import os
from pathlib import Path

import pytest

from pyqmail.incoming import letter as letters
from pyqmail.incoming.check import Check, Rules, Verdict
from pyqmail.incoming.checks import CHECKS, Checks
from pyqmail.incoming.client import Client
from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.recipient_check import RecipientClient
from pyqmail.incoming.session import Session
from pyqmail.incoming.smtp import SmtpSession
from pyqmail.incoming.smtp_connection import SessionEnd
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.incoming.srs_recipient import SrsRecipient
from pyqmail.intake.client import Injection
from pyqmail.protocol.reply import Reply
from pyqmail.stream.stream import Secured
from tests.programs.test_smtp_fuzz import Pieces, Queue, Queued

LATER = Reply(451, b"later (#4.7.1)")
NEVER = Reply(550, b"never (#5.7.1)")
CLIENT = Client(b"192.0.2.7", b"unknown", None)


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    (tmp_path / "control").mkdir()
    (tmp_path / "run/incoming").mkdir(parents=True)
    (tmp_path / "control/me").write_text("mx.test\n")
    (tmp_path / "control/rcpthosts").write_text("here.test\n")
    return Rules(str(tmp_path), {b"TCPREMOTEIP": b"192.0.2.7", b"QMAILQUEUE": b"none"})


class Notes(Check):
    """Says nothing but what it has seen."""

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        return Verdict(None, ((b"seen", letter.sender),))


class Refuses(Check):
    """Refuses one sender at once, and another at its recipients."""

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        if letter.sender == b"now@x":
            return Verdict(LATER, at_once=True)
        return Verdict(NEVER, ((b"why", b"a reason"),)) if letter.sender == b"bad@x" else None


class Unasked(Check):
    """Comes after the one that refuses."""

    def sender(self, client: Client, letter: Letter) -> Verdict | None:
        assert letter.sender == b"good@x"
        return None


class Reads(Check):
    """Wants the message, and refuses one that holds a word."""

    pieces: list[int] = []

    def holds(self, client: Client) -> bool:
        return True

    def message(self, client: Client, letter: Letter) -> Verdict | None:
        assert letter.held is not None
        text = b"".join(letter.held.pieces())
        letter.prepend(b"X-Read: %d\n" % len(text))
        return Verdict(NEVER) if b"virus" in text else Verdict(None, ((b"read", b"yes"),))


def session(rules: Rules, *kinds: type[Check]) -> Session:
    log = DecisionLog(b"test", {b"TCPREMOTEINFO": b"sendmail-bs", b"TCPREMOTEIP": b"127.0.0.1"})
    return Session(rules.home, rules.environ, Checks(kinds, rules), log)


def test_the_first_that_refuses_decides_and_what_was_found_before_is_kept(rules: Rules) -> None:
    made = session(rules, Notes, Refuses, Unasked)
    letter = Letter(0, b"bad@x")
    assert made.judge_sender(letter) is None
    assert made.add(letter, b"a@here.test") is NEVER and letter.recipients == []
    assert letter.evidence == [(b"seen", b"bad@x"), (b"why", b"a reason")]


def test_a_refusal_at_once_is_the_answer_to_mail(rules: Rules) -> None:
    assert session(rules, Notes, Refuses, Unasked).judge_sender(Letter(0, b"now@x")) is LATER


def test_who_is_welcome_is_asked_of_all(rules: Rules) -> None:
    made = session(rules, Notes, Refuses, Unasked)
    letter = Letter(0, b"good@x")
    assert made.judge_sender(letter) is None and made.add(letter, b"anybody") is None
    assert letter.recipients == [b"anybody"]


def test_the_order_of_the_policy() -> None:
    assert [check.name for check in CHECKS] == [
        "hops",
        "databytes",
        "badmailfrom",
        "badhelo",
        "mailfromrules",
        "brtlimit",
        "tarpitcount",
        "badrcptto",
        "rcpthosts",
        "validrcptto",
        "recipients",
        "lmtp",
        "dnsbllist",
        "srs",
        "rcptcheck",
        "maxrcpt",
        "RCPTCHECK",
        "spf, dkim, dmarc",
        "auth",
        "greylist",
        "relaylimits",
    ]


class Conversation:
    """An SMTP session with checks of the test's own in front of the usual ones."""

    def __init__(self, rules: Rules, monkeypatch: pytest.MonkeyPatch, *kinds: type[Check]) -> None:
        self.queued: list[Queued] = []
        monkeypatch.setattr(Injection, "open", lambda *_, **__: Queue(self.queued))
        self.settings = Settings(rules.home, rules.environ)
        self.settings.checks = Checks((*kinds, *CHECKS), self.settings.rules)

    def say(self, wire: bytes) -> bytes:
        stream = Pieces([wire[at : at + 60000] for at in range(0, len(wire), 60000)])
        reader, writer = os.pipe()
        saved = os.dup(2)
        os.dup2(writer, 2)
        try:
            SmtpSession(self.settings, stream, DecisionLog(b"qmail-smtpd", {}, sockets=True)).run()
        except SessionEnd as end:
            stream.flush()
            stream.said += end.reply.line if end.reply else b""
        finally:
            os.dup2(saved, 2)
            for fd in (saved, writer):
                os.close(fd)
        with os.fdopen(reader, "rb") as log:
            self.log = log.read()
        return stream.said


BEFORE = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@here.test>\r\nDATA\r\n"


@pytest.mark.parametrize("size", [1, 200_000, 2_000_000], ids=["small", "large", "on the disk"])
def test_a_message_waits_for_its_verdict(rules: Rules, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    talk = Conversation(rules, monkeypatch, Reads)
    line = b"x" * 70 + b"\r\n"
    body = line * (size // len(line) + 1)
    said = talk.say(BEFORE + b"Subject: s\r\n\r\n" + body + b".\r\nQUIT\r\n")
    assert b"\r\n250 ok 1" in said, said
    (text, _, recipients, failed) = talk.queued[0]
    assert text == b"Subject: s\n\n" + body.replace(b"\r\n", b"\n") and recipients == (b"c@here.test",) and not failed
    assert talk.log.endswith(b" qp=7 read=yes\n")
    assert os.listdir(Path(rules.home) / "run/incoming") in ([], ["room"])


def test_a_message_that_is_refused_never_reaches_the_queue(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversation(rules, monkeypatch, Reads)
    said = talk.say(BEFORE + b"a virus\r\n.\r\nNOOP\r\nQUIT\r\n")
    assert said.endswith(b"354 go ahead\r\n550 never (#5.7.1)\r\n250 ok\r\n221 mx.test\r\n")
    assert all(failed for _, _, _, failed in talk.queued)
    assert b"refused ip=192.0.2.7 helo= from=<a@b> to=<c@here.test> reason=550_never_(#5.7.1)\n" in talk.log


def test_without_room_the_client_comes_again(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    (Path(rules.home) / "control/incomingmax").write_text("1000\n")
    talk = Conversation(rules, monkeypatch, Reads)
    said = talk.say(BEFORE + b"x" * 400000 + b"\r\n.\r\n" + BEFORE + b"small\r\n.\r\nQUIT\r\n")
    assert b"354 go ahead\r\n452 no room for this message at the moment (#4.3.1)\r\n" in said
    assert b"354 go ahead\r\n250 ok 1" in said
    assert [failed for _, _, _, failed in talk.queued if not failed] == [False]


def test_a_client_can_be_turned_away_before_its_greeting(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(Check):
        def connected(self, client: Client) -> Verdict | None:
            return Verdict(Reply(554, b"not from " + client.ip))

    assert Conversation(rules, monkeypatch, Closed).say(b"QUIT\r\n") == b"554 not from 192.0.2.7\r\n"


# The client


def test_a_client_never_changes_and_what_was_said_in_clear_is_forgotten() -> None:
    client = Client.from_environ({b"TCPREMOTEIP": b"192.0.2.7", b"RELAYCLIENT": b""}).greeted(b"c.test")
    with pytest.raises(AttributeError):
        client.user = b"root"
    secured = client.secured_by(Secured("TLSv1.3", "c", 256), {})
    assert (secured.helo, secured.relay, secured.user, secured.ip) == (None, None, None, b"192.0.2.7")


@pytest.mark.parametrize(
    ("secured", "user", "word"),
    [(False, None, b"SMTP"), (True, None, b"ESMTPS"), (False, b"joe", b"ESMTPA"), (True, b"joe", b"ESMTPSA")],
)
def test_the_word_for_received(secured: bool, user: bytes | None, word: bytes) -> None:
    client = CLIENT.greeted(b"c.test")
    if secured:
        client = client.secured_by(Secured("TLSv1.3", "c", 256), {})
    assert (client if user is None else client.known_as(user)).protocol == word


def test_a_user_may_send_anywhere(rules: Rules) -> None:
    made = session(rules, *CHECKS)
    letter = Letter(0, b"joe@here.test")
    refusal = made.add(letter, b"x@elsewhere.test")
    assert refusal is not None and refusal.code == 553
    made.client = made.client.known_as(b"joe")
    assert made.add(letter, b"x@elsewhere.test") is None and letter.recipients == [b"x@elsewhere.test"]
    assert letters.HOPS_MAX == 100


@pytest.mark.parametrize(
    ("made_here", "code", "evidence"),
    [(True, None, [(b"srs", b"pass")]), (False, 550, []), (None, 451, [])],
    ids=["ours", "a stranger's", "not known"],
)
def test_an_address_of_srs_is_evidence_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_here: bool | None, code: int | None, evidence: list[object]
) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/srs_domain").write_text("srs.test\n")
    monkeypatch.setattr(RecipientClient, "made_here", lambda self, recipient: made_here)
    made = session(Rules(str(tmp_path), {}), SrsRecipient)
    letter = Letter(0, b"")
    for address in (b"SRS0=x@srs.test", b"SRS0=y@srs.test"):
        reply = made.add(letter, address)
        assert (reply and reply.code) == code
    assert letter.evidence == evidence
