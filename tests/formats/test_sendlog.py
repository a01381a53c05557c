"""Log lines and their time stamps as values."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.formats.sendlog import Bounce, Done, End, Info, New, Session, Start, Trouble, parse_event, parse_line

STAMPS = [
    ("multilog", "@4000000037c219bf2ef02e94 new msg 5", 935467445.787492500),
    ("svlogd", "1999-08-24_04:12:31.78749 new msg 5", 935467951.78749),
    ("splogger", "935467951.787492 new msg 5", 935467951.787492),
    ("syslog", "Aug 24 04:12:31 mx qmail: 935467951.787492 new msg 5", 935467951.787492),
    ("syslog with a pid", "Aug  4 04:12:31 mx qmail[77]: 935467951.787492 new msg 5", 935467951.787492),
    ("syslog of RFC 5424", "1999-08-24T04:12:31.787492+02:00 mx qmail: 935467951.787492 new msg 5", 935467951.787492),
    ("syslog of RFC 5424, UTC", "1999-08-24T04:12:31Z mx qmail: 935467951.787492 new msg 5", 935467951.787492),
    ("journal", "935467951.787492 mx qmail-send[12]: new msg 5", 935467951.787492),
    ("journal of splogger", "935467952.000000 mx qmail[12]: 935467951.787492 new msg 5", 935467951.787492),
]


@pytest.mark.parametrize(("line", "when"), [row[1:] for row in STAMPS], ids=[row[0] for row in STAMPS])
def test_each_loggers_stamp_is_understood(line: str, when: float) -> None:
    found, event = parse_line(line + "\n")
    assert event == New(5)
    assert found == pytest.approx(when, abs=1e-5)


def test_a_stamp_made_now_is_now() -> None:
    now = int(time.time())
    assert parse_line(f"@{(1 << 62) + now + 10:016x}00000000 x")[0] == now


EVENTS = [
    (
        "info msg 5: bytes 211 from <bob@client.test> qp 4214306 uid 1002",
        Info(5, 211, "bob@client.test", 4214306, 1002),
    ),
    ("info msg 5: bytes 9 from <> qp 7 uid 1007", Info(5, 9, "", 7, 1007)),
    ("starting delivery 2: msg 5 to remote a@b.test", Start(2, 5, "remote", "a@b.test")),
    ("delivery 2: success: did_1+0+0/", End(2, "success", "did_1+0+0")),
    ("delivery 2: deferral: no_luck/", End(2, "deferral", "no_luck")),
    ("bounce msg 5 qp 12", Bounce(5)),
    ("double bounce msg 5 qp 12", Bounce(5)),
    ("end msg 5", Done(5)),
    ("alert: oh no!", Trouble("alert: oh no!")),
    (
        "qmail-smtpd: accepted ip=::1 helo=h from=<a@b> to=<c@d> bytes=1 qp=2",
        Session("accepted", "::1", "h", "a@b", "<c@d> bytes=1 qp=2"),
    ),
    ("status: local 0/10 remote 0/20", None),
    ("tcpserver: pid 12 from 127.0.0.1", None),
]


@pytest.mark.parametrize(("text", "event"), EVENTS, ids=[row[0][:30] for row in EVENTS])
def test_each_line_is_its_event(text: str, event: object) -> None:
    assert parse_event(text) == event


@pytest.mark.parametrize("stamp", [row[1].removesuffix("new msg 5") for row in STAMPS], ids=[row[0] for row in STAMPS])
@pytest.mark.parametrize(("text", "event"), EVENTS, ids=[row[0][:30] for row in EVENTS])
def test_each_line_is_its_event_behind_each_stamp(stamp: str, text: str, event: object) -> None:
    when, found = parse_line(stamp + text)
    assert when is not None and found == event


@given(st.text())
def test_no_line_is_trouble(line: str) -> None:
    parse_line(line)
