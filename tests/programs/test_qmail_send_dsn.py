"""What senders hear who asked for it: the tables of RFC 3461 sections 5 and 6, by a qmail-send between spawners."""

import dataclasses
import email
import email.policy
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyqmail.formats.facts import Facts, RecipientFacts, format_facts
from pyqmail.formats.netstring import format_netstring, format_netstrings
from pyqmail.formats.report import EXPANDED, FORWARDED, PASSED_ON
from tests.programs.sending import Sending

NEAR, FAR = b"ann@here.example", b"bob@far.example"
SENDER = b"joe@a.example"
ALL = "SUCCESS,FAILURE,DELAY"


@pytest.fixture
def spied(sending: Sending) -> Sending:
    """A qmail-send whose notices and bounces end in a file."""
    sending.spy()
    return sending


def told(*recipients: tuple[bytes, str], ret: bytes = b"", envid: bytes = b"") -> Facts:
    named = [
        RecipientFacts(address, frozenset(words.encode().split(b",")) if words else frozenset(), b"rfc822;o+2B@x")
        for address, words in recipients
    ]
    return Facts(ret, envid, recipients=tuple(named))


def put(sending: Sending, facts: Facts, sender: bytes = SENDER, born: float = 0) -> int:
    """Queue a message with ``facts``, and have qmail-send look."""
    number = sending.put(sender, *(one.address for one in facts.recipients), body=b"Received: x\nA: b\n\nbody\n")
    words = [b"facts 1", b"t", b"Received: x", b"23", format_facts(facts, sender)]
    path = sending.queue / f"pyqmail/facts/{number % 3}/{number}"
    path.write_bytes(format_netstring(format_netstrings(words)))
    todo = sending.queue / f"todo/{number}"
    todo.write_bytes(b"p0 facts t\0" + todo.read_bytes())
    if not sending.pid:
        sending.start().until_log("status:")
    sending.pull()
    return number


def answer(sending: Sending, letter: bytes, text: bytes, count: int = 1) -> None:
    """Report on each delivery, once there are ``count``."""
    sending.until(lambda: sum(map(len, sending.commands.values())) == count)
    for channel, commands in sending.commands.items():
        for command in commands:
            sending.report(channel, command.slot, letter, text)
        commands.clear()


def heard(sending: Sending) -> list[tuple[email.message.Message, bytes]]:
    """Each message that was sent, and its envelope."""
    spied = sending.home / "spy"
    found = []
    data = spied.read_bytes() if spied.exists() else b""
    while data:
        message, _, rest = data.partition(b"|")
        envelope, _, data = rest.partition(b"\0\0")
        found.append((email.message_from_bytes(message, policy=email.policy.default), envelope + b"\0\0"))
    return found


def fields(message: email.message.Message) -> tuple[email.message.Message, list[email.message.Message]]:
    """Those about the message, and those about each recipient."""
    assert message.get_content_type() == "multipart/report" and not any(part.defects for part in message.walk())
    parts: Sequence[email.message.Message] = message.get_payload()  # type: ignore[assignment]
    first, *others = parts[1].get_payload()  # type: ignore[misc]
    return first, others


@pytest.mark.parametrize("words", ["", "NEVER", "SUCCESS", "FAILURE", "DELAY", ALL])
@pytest.mark.parametrize(
    ("recipient", "letter", "text", "action", "keyword"),
    [
        pytest.param(NEAR, b"K", b"did 1+0+0\n", "delivered", "SUCCESS", id="5.2.3 delivered"),
        pytest.param(
            FAR, b"K", b"192.0.2.1 accepted message.\n", "relayed", "SUCCESS", id="5.2.2 relayed to who knows no DSN"
        ),
        pytest.param(NEAR, b"K", b"did 0+1+0\nqp 7\n" + FORWARDED, "", "SUCCESS", id="5.2.7.2 one forward"),
        pytest.param(NEAR, b"K", b"did 0+2+0\nqp 7\n" + EXPANDED, "expanded", "SUCCESS", id="5.2.7.3 several forwards"),
        pytest.param(FAR, b"K", b"192.0.2.1 accepted message." + PASSED_ON, "", "SUCCESS", id="5.2.1 passed on"),
        pytest.param(FAR, b"D", b"no such user (#5.1.1)\n", "failed", "FAILURE", id="5.2.6 failed"),
    ],
)
def test_who_hears_of_what(
    spied: Sending, words: str, recipient: bytes, letter: bytes, text: bytes, action: str, keyword: str
) -> None:
    number = put(spied, told((recipient, words), envid=b"an+2Did"))
    answer(spied, letter, text)
    spied.until_log(f"end msg {number}\n")
    wanted = action if keyword in (words or "FAILURE").split(",") else ""
    if wanted:
        spied.until_log(f"bounce msg {number} qp " if wanted == "failed" else f"notice msg {number} qp ")
    else:
        assert "notice msg" not in spied.log
    assert ("suppressed (NOTIFY=NEVER)" in spied.log) == (letter == b"D" and not wanted)
    assert len(heard(spied)) == bool(wanted)
    for message, envelope in heard(spied):
        assert envelope == b"F\0T" + SENDER + b"\0\0" and message["To"] == SENDER.decode()
        about, (each,) = fields(message)
        assert about["Original-Envelope-Id"] == "an-id"
        assert each["Original-Recipient"] == "rfc822; o+@x"
        assert each["Final-Recipient"] == f"rfc822; {recipient.decode()}" and each["Action"] == wanted
        assert each["Status"] == ("5.1.1" if wanted == "failed" else "2.0.0")


def test_a_notice_does_not_look_like_a_bounce_and_has_the_header_alone(spied: Sending) -> None:
    number = put(spied, told((NEAR, "SUCCESS"), ret=b"FULL"))
    answer(spied, b"K", b"did 1+0+0\n")
    spied.until_log(f"notice msg {number} qp ")
    ((message, _),) = heard(spied)
    assert message["Auto-Submitted"] == "auto-replied" and message["Message-ID"] and message["Date"]
    text, _, original = message.get_payload()  # type: ignore[misc]
    assert text.get_payload().startswith("This is the qmail-send program")  # type: ignore[union-attr]
    assert original.get_content_type() == "text/rfc822-headers"  # type: ignore[union-attr]
    assert "A: b" in str(original) and "body" not in str(original)


@pytest.mark.parametrize(("ret", "kind"), [(b"HDRS", "text/rfc822-headers"), (b"FULL", "message/rfc822")])
def test_a_bounce_has_as_much_of_the_message_as_its_sender_wants(spied: Sending, ret: bytes, kind: str) -> None:
    """Section 6.2."""
    number = put(spied, told((NEAR, ""), ret=ret))
    answer(spied, b"D", b"no\n")
    spied.until_log(f"bounce msg {number} qp ")
    ((message, _),) = heard(spied)
    assert message.get_payload()[2].get_content_type() == kind  # type: ignore[index,union-attr]


@pytest.mark.parametrize("letter", [b"D", b"K"])
def test_what_is_told_of_a_message_with_requiretls_has_it_too(spied: Sending, letter: bytes) -> None:
    """RFC 8689 section 5: REQUIRETLS itself, and the header alone whatever RET says."""
    facts = told((NEAR, "SUCCESS,FAILURE"), ret=b"FULL")
    number = put(spied, dataclasses.replace(facts, requiretls=True))
    answer(spied, letter, b"no\n")
    spied.until_log(f"{'bounce' if letter == b'D' else 'notice'} msg {number} qp ")
    ((message, _),) = heard(spied)
    assert message.get_payload()[2].get_content_type() == "text/rfc822-headers"  # type: ignore[index,union-attr]
    assert (spied.home / "spied-facts").read_bytes() == format_facts(Facts(requiretls=True), b"")


def test_one_bounce_tells_of_all_that_failed_and_wants_to_hear_of_nothing(spied: Sending) -> None:
    """Sections 5.2.8 and 6.1: each has its own fields, and who did not fail has none."""
    number = put(spied, told((NEAR, "FAILURE"), (FAR, "FAILURE"), (b"x@far.example", ALL)))
    spied.until(lambda: sum(map(len, spied.commands.values())) == 3)
    for channel, commands in spied.commands.items():
        for command in commands:
            good = command.recipient == b"x@far.example"
            spied.report(channel, command.slot, b"K" if good else b"D", PASSED_ON if good else b"no\n")
    spied.until_log(f"bounce msg {number} qp ")
    ((message, envelope),) = heard(spied)
    about, each = fields(message)
    assert about["Original-Envelope-Id"] is None  # 6.3 (a)
    assert sorted(str(one["Final-Recipient"]) for one in each) == [f"rfc822; {to.decode()}" for to in (NEAR, FAR)]
    assert envelope.startswith(b"F\0T") and (spied.home / "spied-facts").read_bytes() == b""


def test_one_of_two_recipients_is_passed_over_in_silence(spied: Sending) -> None:
    number = put(spied, told((NEAR, "NEVER"), (FAR, "FAILURE")))
    answer(spied, b"D", b"no\n", 2)
    spied.until_log(f"bounce msg {number} qp ")
    ((message, _),) = heard(spied)
    assert [each["Final-Recipient"] for each in fields(message)[1]] == [f"rfc822; {FAR.decode()}"]


@pytest.mark.parametrize("sender", [b"", b"#@[]"])
def test_nobody_is_told_of_a_bounces_success(spied: Sending, sender: bytes) -> None:
    """Section 6.1: there is no address to copy."""
    number = put(spied, told((NEAR, "SUCCESS")), sender)
    answer(spied, b"K", b"did 1+0+0\n")
    spied.until_log(f"end msg {number}\n")
    assert not heard(spied)


def test_a_delay_is_told_once_and_even_a_restart_does_not_tell_it_again(spied: Sending, send_home: Path) -> None:
    """Section 5.2.5 (a) and (c)."""
    (send_home / "control/dsndelay").write_text("100\n")
    number = put(spied, told((FAR, "DELAY"), (b"x@far.example", "FAILURE")))
    answer(spied, b"Z", b"busy\n", 2)
    spied.until(lambda: spied.log.count("deferral") == 2)
    assert not heard(spied)  # it is young
    assert spied.finish() == 0
    old = time.time() - 200
    os.utime(spied.queue / f"info/{number % 3}/{number}", (old, old))
    for turn in range(2):
        spied.log = ""
        spied.start().until_log("status:")
        os.kill(spied.pid, signal.SIGALRM)
        answer(spied, b"Z", b"still busy (#4.2.1)\n", 2)
        spied.until(lambda: spied.log.count("deferral") == 2)
        if turn == 0:
            spied.until_log(f"notice msg {number} qp ")
        assert spied.finish() == 0
    ((message, _),) = heard(spied)
    _, (each,) = fields(message)
    assert (each["Action"], each["Status"]) == ("delayed", "4.2.1")
    assert each["Final-Recipient"] == f"rfc822; {FAR.decode()}" and each["Will-Retry-Until"]


def test_an_administrator_bounces_to_who_wants_to_hear_of_it(spied: Sending, send_home: Path) -> None:
    number = put(spied, told((FAR, "NEVER"), (b"x@far.example", "FAILURE")))
    answer(spied, b"Z", b"busy\n", 2)
    spied.until(lambda: spied.log.count("deferral") == 2)
    assert spied.finish() == 0
    birth = int(os.stat(spied.queue / f"info/{number % 3}/{number}").st_mtime)
    (send_home / "queue/pyqmail/orders").write_text(f"bounce {number} {birth}\n")
    spied.start().until_log(f"bounce msg {number} qp ")
    ((message, _),) = heard(spied)
    assert [each["Final-Recipient"] for each in fields(message)[1]] == ["rfc822; x@far.example"]


def test_after_a_change_of_the_routing_nobody_has_anothers_wishes(spied: Sending, send_home: Path) -> None:
    put(spied, told((NEAR, "NEVER"), (FAR, "")))
    spied.until(lambda: sum(map(len, spied.commands.values())) == 2)
    (send_home / "control/locals").write_text("far.example\n")
    os.kill(spied.pid, signal.SIGHUP)
    put(spied, told((FAR, "FAILURE")))
    answer(spied, b"D", b"no\n", 3)
    spied.until(lambda: spied.log.count("bounce msg") == 2)
    assert "suppressed" not in spied.log  # in doubt the sender hears of it


def test_a_queue_that_takes_no_notice_is_asked_again(spied: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    spied.spy(code=53)
    number = put(spied, told((NEAR, "SUCCESS")))
    answer(spied, b"K", b"did 1+0+0\n")
    spied.until_log(f"warning: trouble queueing a notice of msg {number}, will try later\n")
    assert spied.finish() == 0


@pytest.mark.parametrize("damage", ["unreadable", "torn"])
def test_a_bounce_waits_for_facts_that_may_be_read_later_and_for_no_others(spied: Sending, damage: str) -> None:
    """Without them it could be the whole of a message with REQUIRETLS, and go in clear."""
    number = put(spied, dataclasses.replace(told((NEAR, "")), requiretls=True))
    spied.until(lambda: len(spied.commands["local"]) == 1)
    other = put(spied, told((FAR, "")))  # what qmail-send has in mind is that of one message
    spied.until(lambda: len(spied.commands["remote"]) == 1)
    assert other != number
    path = spied.queue / f"pyqmail/facts/{number % 3}/{number}"
    kept = path.read_bytes()
    path.unlink()
    if damage == "unreadable":
        path.mkdir()
    else:
        path.write_bytes(kept[:-5])
    spied.report("local", spied.commands["local"][0].slot, b"D", b"no\n")
    if damage == "torn":
        spied.until_log(f"bounce msg {number} qp ")
        return
    spied.until_log(f"warning: unable to read facts of msg {number}; will try again later\n")
    assert not heard(spied) and (spied.queue / f"bounce/{number}").exists()
