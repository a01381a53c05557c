"""spfbehavior and dmarcbehavior: what each number does with each result, as values."""

from pathlib import Path

import pytest

from pyqmail.incoming.check import Rules
from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.sender_authentication import REFUSE, SenderAuthentication
from pyqmail.protocol.verification import Pairs

CLIENT = Client(b"192.0.2.7", b"unknown", None, b"c.example")
MARK = b"X-DMARC-Policy: quarantine; a.example\n"


class Told(SenderAuthentication):
    """Knows the answers of qmail-verifyd."""

    def __init__(self, home: Path, spf: bytes = b"pass", text: Pairs | None = None, **numbers: int) -> None:
        (home / "control").mkdir()
        (home / "control/me").write_text("mx.test\n")
        for name, number in numbers.items():
            (home / "control" / name).write_text(f"{number}\n")
        super().__init__(Rules(str(home), {}))
        self._spf_result = spf
        self._text = text or []

    def ask_about_sender(self, about: Pairs) -> Pairs:
        return [(b"spf", self._spf_result), (b"domain", b"a.example")]

    def ask_about_text(self, about: Pairs, letter: Letter) -> Pairs:
        return self._text


class Noted(Letter):
    """Remembers what goes above it."""

    above = b""

    def prepend(self, lines: bytes) -> None:
        self.above = lines + self.above


@pytest.mark.parametrize(
    ("result", "replies"),
    [
        (b"pass", "-------"),
        (b"fail", "---5555"),
        (b"softfail", "----555"),
        (b"neutral", "-----55"),
        (b"none", "------5"),
        (b"permerror", "------5"),
        (b"temperror", "--44444"),
    ],
)
@pytest.mark.parametrize("number", range(7))
def test_spf(tmp_path: Path, result: bytes, replies: str, number: int) -> None:
    check = Told(tmp_path, result, spfbehavior=number)
    letter = Noted(0, b"ann@a.example")
    before = check.sender(CLIENT, letter)
    verdict = check.recipient(CLIENT, letter, b"bob@here.test") if before is not None else None
    reply = verdict.reply if verdict is not None else None
    assert (str(reply.code)[0] if reply is not None else "-") == replies[number]
    rehearsed = before is not None and (b"rehearsal", b"spf:a.example") in before.evidence
    assert rehearsed is (replies[REFUSE] == "5" and number in (1, 2))


@pytest.mark.parametrize(
    ("answer", "replies"),
    [
        pytest.param([(b"dmarc", b"pass")], "-------", id="pass"),
        pytest.param([(b"dmarc", b"fail"), (b"policy", b"reject")], "---5555", id="reject"),
        pytest.param([(b"dmarc", b"fail"), (b"policy", b"quarantine")], "----mmm", id="quarantine"),
        pytest.param([(b"dmarc", b"fail"), (b"policy", b"none")], "-------", id="to be watched"),
        pytest.param([(b"dmarc", b"permerror"), (b"problem", b"two From")], "---5555", id="nobody's"),
        pytest.param([(b"dmarc", b"temperror")], "--44444", id="no answer"),
    ],
)
@pytest.mark.parametrize("number", range(7))
def test_dmarc(tmp_path: Path, answer: Pairs, replies: str, number: int) -> None:
    check = Told(tmp_path, text=[(b"author", b"a.example"), *answer], dmarcbehavior=number)
    letter = Noted(0, b"ann@a.example")
    check.sender(CLIENT, letter)
    verdict = check.message(CLIENT, letter)
    reply = verdict.reply if verdict is not None else None
    seen = str(reply.code)[0] if reply is not None else "m" if MARK in letter.above else "-"
    assert seen == replies[number]
    rehearsed = verdict is not None and (b"rehearsal", b"dmarc:a.example") in verdict.evidence
    assert rehearsed is (replies[REFUSE] == "5" and number in (1, 2))


@pytest.mark.parametrize("client", [CLIENT._replace(user=b"ann"), CLIENT._replace(relay=b"")], ids=["user", "relay"])
def test_our_own_are_not_asked_about(tmp_path: Path, client: Client) -> None:
    check = Told(tmp_path, b"fail", [(b"dmarc", b"fail"), (b"policy", b"reject")], spfbehavior=6, dmarcbehavior=6)
    letter = Noted(0, b"ann@a.example")
    assert check.sender(client, letter) is None
    assert check.recipient(client, letter, b"bob@here.test") is None
    assert check.message(client, letter) is None
    assert letter.above == b""
