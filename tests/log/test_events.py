"""The lines of the logs as values: what is written is read back, and it is the line of qmail-log(5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.logline import safe
from pyqmail.log.events import (
    Alert,
    BounceDiscarded,
    BounceQueued,
    BounceSuppressed,
    Decision,
    DeliveryEnded,
    DeliveryStarted,
    Event,
    Exiting,
    MessageEnded,
    MessageInfo,
    NewMessage,
    NoticeQueued,
    OrderGiven,
    Running,
    Warn,
)
from pyqmail.log.parse import parse_event

EVENTS = [
    (b"new msg 5", NewMessage(5)),
    (b"info msg 5: bytes 9 from <> qp 7 uid 1007", MessageInfo(5, 9, b"", 7, 1007)),
    (b"info msg 5: bytes 211 from <b@c.test> qp 42 uid 10", MessageInfo(5, 211, b"b@c.test", 42, 10)),
    (b"starting delivery 2: msg 5 to remote a@b.test", DeliveryStarted(2, 5, "remote", b"a@b.test")),
    (b"delivery 2: success: did_1+0+0/", DeliveryEnded(2, "success", b"did_1+0+0/")),
    (b"delivery 2: deferral: no_luck/", DeliveryEnded(2, "deferral", b"no_luck/")),
    (b"delivery 2: failure: ", DeliveryEnded(2, "failure", b"")),
    (b"delivery 2: report mangled, will defer", DeliveryEnded(2, "mangled")),
    (b"bounce msg 5 qp 12", BounceQueued(5, 12)),
    (b"bounce msg 5 suppressed (NOTIFY=NEVER)", BounceSuppressed(5)),
    (b"notice msg 5 qp 7: delay", NoticeQueued(5, 7, "delay")),
    (b"double bounce: discarding bounce/5", BounceDiscarded(5, "double")),
    (b"triple bounce: discarding bounce/5", BounceDiscarded(5, "triple")),
    (b"end msg 5", MessageEnded(5)),
    (b"status: local 0/10 remote 2/20", Running(0, 10, 2, 20)),
    (b"status: local 1/10 remote 0/20 exitasap", Running(1, 10, 0, 20, exiting=True)),
    (b"status: exiting", Exiting()),
    (b"control: uid 0: hold msg 457", OrderGiven(b"uid 0: hold msg 457")),
    (b"alert: oh no! lost spawn connection! dying...", Alert(b"oh no! lost spawn connection! dying...")),
    (b"warning: unable to stat info/1/5; will try again later", Warn(b"unable to stat info/1/5; will try again later")),
    (
        b"qmail-smtpd: accepted ip=::1 helo=h from=<a@b> to=<c@d>,+3 bytes=1 qp=2",
        Decision(b"qmail-smtpd", "accepted", b"::1", b"h", b"a@b", b"<c@d>,+3", ((b"bytes", b"1"), (b"qp", b"2"))),
    ),
    (
        b"qmail-qmtpd: refused ip=192.0.2.1 helo= from=<> to=<c@d> reason=550_no",
        Decision(b"qmail-qmtpd", "refused", b"192.0.2.1", b"", b"", b"<c@d>", ((b"reason", b"550_no"),)),
    ),
]
OTHERS = [
    b"tcpserver: pid 12 from 127.0.0.1",
    b"",
    b"new msg x",
    b"end msg 5 ",
    b"status: odd",
    b"alerting",
    b"new msg " + b"9" * 30,
]

NUMBERS = st.integers(0, 10**20 - 1)
TEXT = st.binary(max_size=60).map(safe)
WORDS = st.lists(st.tuples(st.from_regex(rb"[a-z]{1,9}", fullmatch=True), TEXT), max_size=3).map(tuple)
ANY = st.one_of(
    st.builds(NewMessage, NUMBERS),
    st.builds(MessageInfo, NUMBERS, NUMBERS, TEXT, NUMBERS, NUMBERS),
    st.builds(DeliveryStarted, NUMBERS, NUMBERS, st.sampled_from(["local", "remote"]), TEXT),
    st.builds(DeliveryEnded, NUMBERS, st.sampled_from(["success", "failure", "deferral"]), TEXT),
    st.builds(BounceQueued, NUMBERS, NUMBERS),
    st.builds(BounceSuppressed, NUMBERS),
    st.builds(NoticeQueued, NUMBERS, NUMBERS, st.sampled_from(["success", "delay"])),
    st.builds(BounceDiscarded, NUMBERS, st.sampled_from(["double", "triple"])),
    st.builds(MessageEnded, NUMBERS),
    st.builds(Running, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans()),
    st.builds(OrderGiven, TEXT),
    st.builds(Warn, TEXT),
    st.builds(Alert, TEXT),
    st.builds(
        Decision,
        st.sampled_from([b"qmail-smtpd", b"qmail-qmtpd", b"qmail-qmqpd"]),
        st.sampled_from(["accepted", "refused"]),
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        WORDS,
    ),
)


@pytest.mark.contract("send 9.1", "send 9.5", "send 9.6", "send 9.7")
@pytest.mark.parametrize(("line", "event"), EVENTS, ids=[row[0].decode()[:40] for row in EVENTS])
def test_each_event_is_its_line_and_each_line_its_event(line: bytes, event: Event) -> None:
    assert event.format() == line
    assert parse_event(line) == event


@given(ANY)
def test_what_is_written_is_read_back(event: Event) -> None:
    assert parse_event(event.format()) == event


@pytest.mark.parametrize("line", OTHERS)
def test_other_lines_are_none(line: bytes) -> None:
    assert parse_event(line) is None


@given(st.binary(max_size=80), st.sampled_from([row[0] for row in EVENTS]), st.integers(0, 80))
def test_no_line_is_trouble(noise: bytes, line: bytes, at: int) -> None:
    parse_event(noise)
    parse_event(line[:at] + noise)


@given(st.binary(max_size=200))
def test_no_text_of_a_stranger_makes_a_second_line(text: bytes) -> None:
    for event in (
        MessageInfo(1, 2, text, 3, 4),
        DeliveryStarted(1, 2, "local", text),
        DeliveryEnded(1, "success", text),
    ):
        line = event.format()
        assert b"\n" not in line and line.isascii()
