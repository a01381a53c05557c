"""The time stamps that loggers put before a line."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.log.events import DeliveryEnded, NewMessage, Warn
from pyqmail.log.stamps import parse_line

STAMPS = [
    ("multilog", "@4000000037c219bf2ef02e94 new msg 5", 935467445.787492500),
    ("svlogd", "1999-08-24_04:12:31.78749 new msg 5", 935467951.78749),
    ("splogger", "935467951.787492 new msg 5", 935467951.787492),
    ("syslog", "Aug 24 04:12:31 mx qmail: 935467951.787492 new msg 5", 935467951.787492),
    ("syslog with a pid", "Aug  4 04:12:31 mx qmail[77]: 935467951.787492 new msg 5", 935467951.787492),
    ("syslog of RFC 5424", "1999-08-24T04:12:31.787492+02:00 mx qmail: 935467951.787492 new msg 5", 935467951.787492),
    ("syslog of RFC 5424, UTC", "1999-08-24T04:12:31Z mx qmail: 935467951.787492 new msg 5", 935467951.787492),
    ("syslog of RFC 5424 alone", "1999-08-24T04:12:31.787492+02:00 mx qmail[7]: new msg 5", 935460751.787492),
    ("journalctl -o short-iso", "1999-08-24T04:12:31+0000 mx qmail-send[12]: new msg 5", 935467951.0),
    ("journalctl -o short-iso-precise", "1999-08-24T04:12:31.787492-0130 mx qmail[12]: new msg 5", 935473351.787492),
    ("tai64nlocal", "1999-08-24 04:12:31.787492500 new msg 5", 935467951.787492500),
    ("syslog with a year", "Aug 24 1999 04:12:31 mx qmail: new msg 5", 935467951.0),
    ("svlogd -ttt", "1999-08-24T04:12:31.78749 new msg 5", 935467951.78749),
    ("journal", "935467951.787492 mx qmail-send[12]: new msg 5", 935467951.787492),
    ("journal of splogger", "935467952.000000 mx qmail[12]: 935467951.787492 new msg 5", 935467951.787492),
]


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("line", "when"), [row[1:] for row in STAMPS], ids=[row[0] for row in STAMPS])
def test_each_loggers_stamp_is_understood(line: str, when: float) -> None:
    found, event = parse_line(line + "\n")
    assert event == NewMessage(5)
    assert found == pytest.approx(when, abs=1e-5)


def test_a_stamp_made_now_is_now() -> None:
    now = int(time.time())
    assert parse_line(f"@{(1 << 62) + now + 10:016x}00000000 x")[0] == now


def test_syslog_names_no_year_and_it_is_the_one_that_makes_it_past() -> None:
    now = int(time.time())
    for ago_s in (0, 3600, 300 * 86400):
        text = time.strftime("%b %e %H:%M:%S mx qmail[1]: new msg 5", time.gmtime(now - ago_s))
        assert parse_line(text) == (now - ago_s, NewMessage(5))


@pytest.mark.parametrize(
    "message",
    ['"new msg 5"', '"935467951.787492 new msg 5"', str(list(b"new msg 5"))],
    ids=["text", "splogger's", "bytes"],
)
def test_the_journals_json_is_understood(message: str) -> None:
    line = f'{{"__REALTIME_TIMESTAMP":"935467951787492","_PID":"1","MESSAGE":{message}}}'
    when, event = parse_line(line)
    assert event == NewMessage(5) and when == pytest.approx(935467951.787492, abs=1e-5)


EVENTS = [
    ("delivery 2: success: did_1+0+0/", DeliveryEnded(2, "success", b"did_1+0+0/")),
    ("warning: trouble", Warn(b"trouble")),
    ("tcpserver: pid 12 from 127.0.0.1", None),
]


@pytest.mark.parametrize("stamp", [row[1].removesuffix("new msg 5") for row in STAMPS], ids=[row[0] for row in STAMPS])
@pytest.mark.parametrize(("text", "event"), EVENTS, ids=[row[0][:30] for row in EVENTS])
def test_each_line_is_its_event_behind_each_stamp(stamp: str, text: str, event: object) -> None:
    when, found = parse_line(stamp + text)
    assert when is not None and found == event


@given(st.text())
def test_no_line_is_trouble(line: str) -> None:
    parse_line(line)
