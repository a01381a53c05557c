"""LMTP's core: each recipient has an answer of its own to the message, or is put off."""

import pytest

from pyqmail.protocol.lmtp_client import LmtpTransaction
from pyqmail.protocol.smtp_client import Dialogue
from pyqmail.protocol.smtp_transaction import Finish, Send, SendBody

SAID = b"\nRemote host said: "
LOST = b"connection died. (#4.4.2)\n"
TOLD = [b"220 hi\r\n", b"250-x\r\n250 PIPELINING\r\n", b"250 ok\r\n"]


def begun(recipients: list[bytes], answers: bytes) -> Dialogue:
    """A dialogue whose message is wanted now."""
    dialogue = Dialogue(b"mx", b"me.test", b"s@y.test", recipients, kind=LmtpTransaction)
    for heard in (b"", *TOLD):
        dialogue.feed(heard)
        dialogue.step()
    dialogue.feed(answers + b"354 go\r\n")
    assert dialogue.step() == SendBody()
    return dialogue


def test_it_says_lhlo_and_never_helo() -> None:
    dialogue = Dialogue(b"mx", b"me.test", b"", [b"r@x.test"], extended=False, kind=LmtpTransaction)
    dialogue.step()
    dialogue.feed(b"220 hi\r\n")
    assert dialogue.step() == Send(b"LHLO me.test\r\n")
    dialogue.feed(b"500 what?\r\n")
    assert dialogue.step() == Finish(
        b"Zmx but my name was rejected.".replace(b"mx", b"Connected to mx") + SAID + b"500 what?\n"
    )


@pytest.mark.parametrize(
    ("answers", "letters", "message"),
    [
        pytest.param(b"250 a\r\n250 b\r\n250 c\r\n", b"rrr", b"K", id="all have it"),
        pytest.param(b"250 a\r\n452 b\r\n552 c\r\n", b"rsh", b"K", id="each its own"),
        pytest.param(b"452 a\r\n450-b\r\n450 b\r\n451 c\r\n", b"sss", b"Z", id="nobody now"),
        pytest.param(b"550 a\r\n550 b\r\n550 c\r\n", b"hhh", b"D", id="nobody ever"),
        pytest.param(b"550 a\r\n450 b\r\n550 c\r\n", b"hsh", b"Z", id="nobody, some later"),
    ],
)
def test_answers_to_the_message(answers: bytes, letters: bytes, message: bytes) -> None:
    dialogue = begun([b"a@x.test", b"a@x.test", b"c@x.test"], b"250 ok\r\n" * 3)
    dialogue.feed(answers)
    finish = dialogue.step()
    assert isinstance(finish, Finish) and finish.accepted == (message == b"K")
    assert b"".join(report[:1] for report in dialogue.reports) == letters and finish.report[:1] == message
    assert dialogue.lost(LOST, sent=False)[:1] == b"Z"  # no dot, no answers


def test_a_recipient_that_was_refused_before_has_no_answer_to_the_message() -> None:
    dialogue = begun([b"a@x.test", b"b@x.test", b"c@x.test"], b"250 ok\r\n550 no\r\n250 ok\r\n")
    dialogue.feed(b"450 full\r\n250 stored\r\n")
    assert dialogue.step() == Finish(b"Kmx accepted message." + SAID + b"250 stored\n", accepted=True)
    assert dialogue.reports == [
        b"smx failed after I sent the message." + SAID + b"450 full\n",
        b"hmx does not like recipient." + SAID + b"550 no\n",
        b"r",
    ]


@pytest.mark.parametrize(
    ("answers", "reports", "message"),
    [
        (b"", [b"s" + LOST] * 3, b"ZGiving up on mx.\n"),
        (b"250 ok\r\n", [b"r", b"s" + LOST, b"s" + LOST], b"Kmx accepted message.\n"),
        (b"550 a\r\n250 ok\r\n2", [b"h", b"r", b"s" + LOST], b"Kmx accepted message.\n"),
    ],
)
def test_who_has_no_answer_when_the_connection_dies_is_put_off(
    answers: bytes, reports: list[bytes], message: bytes
) -> None:
    dialogue = begun([b"a@x.test", b"b@x.test", b"c@x.test"], b"250 ok\r\n" * 3)
    dialogue.feed(answers)
    dialogue.step()
    assert dialogue.lost(LOST, sent=True) == message
    assert [found.startswith(wanted) for found, wanted in zip(dialogue.reports, reports, strict=True)] == [True] * 3


def test_recipients_that_were_not_named_are_put_off_too_where_the_connection_dies() -> None:
    dialogue = Dialogue(b"mx", b"me", b"", [b"a@x.test", b"b@x.test"], kind=LmtpTransaction)
    for heard in (b"", b"220 hi\r\n", b"250-x\r\n250 LIMITS RCPTMAX=1\r\n", *[b"250 ok\r\n"] * 2, b"354 go\r\n"):
        dialogue.feed(heard)
        step = dialogue.step()
    assert step == SendBody()
    assert dialogue.lost(LOST, sent=True)[:1] == b"Z" and dialogue.reports == [b"s" + LOST] * 2
