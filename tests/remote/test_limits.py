"""control/remotelimits: whom a line is for, what a pace becomes, and what processes share of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.control import ControlUnreadable
from pyqmail.failure import TemporaryFailure
from pyqmail.formats.report import HeldBack, all_in_use, held_back, paused
from pyqmail.remote import limiter, pace
from pyqmail.remote.limiter import Limiter, Slot
from pyqmail.remote.limits import Limit, limit_of, parse_limits
from pyqmail.remote.pace import Pace

NOW = 1_700_000_000
LINES = [b"google.com:10:100/60", b"aspmx.l.google.com:2:", b"[192.0.2.1]::5/1", b"[2001:db8::1]:1:", b"Outlook.com::"]
LIMITS = parse_limits(LINES)


@pytest.mark.parametrize(
    ("exchanger", "limit"),
    [
        pytest.param(b"alt1.gmail-smtp-in.l.google.com", Limit(b"google.com", 10, 100, 60), id="below"),
        pytest.param(b"ASPMX.L.google.com.", Limit(b"aspmx.l.google.com", 2), id="the longest counts"),
        pytest.param(b"notgoogle.com", None, id="another name that ends so"),
        pytest.param(b"192.0.2.1", Limit(b"192.0.2.1", 0, 5, 1), id="an address"),
        pytest.param(b"[2001:db8::1]", Limit(b"2001:db8::1", 1), id="an IPv6 address"),
        pytest.param(b"mx.outlook.com", Limit(b"outlook.com"), id="no numbers"),
        pytest.param(b"", None, id="no name"),
    ],
)
def test_whom_a_line_is_for(exchanger: bytes, limit: Limit | None) -> None:
    assert limit_of(LIMITS, exchanger) == limit


def test_a_star_is_each_other_exchanger_by_itself() -> None:
    limits = parse_limits([b"*:3:", b"google.com:10:"])
    assert limit_of(limits, b"MX.x.test") == Limit(b"mx.x.test", 3)
    assert limit_of(limits, b"a.google.com") == Limit(b"google.com", 10)


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"x:1",
        b":1:1/1",
        b"[]::",
        b"x:1:5",
        b"x:y:",
        b"x:1:5/0",
        b"x:1:/5",
        b"x:-1:",
        b"x:70000:",
        b"x:1:9999999999/1",
    ],
)
def test_a_line_that_is_none_makes_mail_wait(line: bytes) -> None:
    with pytest.raises(ControlUnreadable, match="remotelimits"):
        parse_limits([line])


@given(st.lists(st.sampled_from([b"x", b":", b"1", b"/", b"[", b".", b"*", b" "])).map(b"".join))
def test_any_line_is_a_limit_or_none(line: bytes) -> None:
    try:
        (limit,) = parse_limits([line]).values()
    except ControlUnreadable:
        return
    assert limit.name and bool(limit.messages) == bool(limit.seconds)


@given(st.builds(Pace, *[st.integers(0, 2**32 - 1)] * 6))
def test_a_pace_survives_its_file(known: Pace) -> None:
    assert pace.parse_pace(known.format()) == known


@pytest.mark.parametrize("exchangers", [b"google.com", b"192.0.2.1", b"2001:db8::1"])
def test_a_report_says_whose_delivery_was_held_back(exchangers: bytes) -> None:
    assert held_back(b"Z", paused(exchangers, 90)) == HeldBack(exchangers, 90, 0)
    assert held_back(b"Z", all_in_use(exchangers, 4) + b"\n") == HeldBack(exchangers, 0, 4)


@pytest.mark.parametrize(
    ("letter", "text"),
    [
        (b"D", paused(b"x", 1)),
        (b"Z", b"192.0.2.1 does not like recipient.\nRemote host said: 450 " + paused(b"x", 1)),
        (b"Z", b"Held back: x"),
    ],
)
def test_other_reports_do_not(letter: bytes, text: bytes) -> None:
    assert held_back(letter, text) is None


def test_each_time_less_is_asked_for_the_pause_doubles_and_the_connections_halve() -> None:
    known, now, limit = Pace(), NOW, Limit(b"x", 10)
    seen = []
    for _ in range(8):
        known = pace.slower(known, now)
        assert pace.slower(known, now + 1) == known, "what comes during a pause is of the same moment"
        seen.append((pace.pause_s(known, now), pace.connections(known, limit)))
        now = known.until
    assert seen == [(60, 5), (120, 2), (240, 1), (480, 1), (960, 1), (1920, 1), (1920, 1), (1920, 1)]


def test_a_minute_of_accepted_messages_takes_one_step_back() -> None:
    known = pace.slower(pace.slower(Pace(), NOW), NOW + 60)
    assert known.until == NOW + 180 and pace.faster(known, NOW + 239) == known
    known = pace.faster(known, NOW + 240)
    assert pace.connections(known, Limit(b"x")) == 10 and pace.faster(known, NOW + 299) == known
    known = pace.faster(known, NOW + 300)
    assert pace.connections(known, Limit(b"x")) == 0 and pace.faster(known, NOW + 900) == known


def test_a_clock_that_goes_back_leaves_no_pause_for_years() -> None:
    assert pace.pause_s(pace.slower(Pace(), NOW), NOW - 10_000_000) == 0


def test_messages_in_a_time() -> None:
    known, limit, now = Pace(), Limit(b"x", 0, 3, 60), NOW // 60 * 60
    for _ in range(3):
        known, wait_s = pace.counted(known, limit, now)
        assert wait_s == 0
    full, wait_s = pace.counted(known, limit, now)
    assert full == known and wait_s > 60, "what was sent counts for a while after its window"
    known, waited = pace.counted(known, limit, now + wait_s)
    assert waited == 0 and (known.current, known.previous) == (1, 3)
    assert pace.counted(known, limit, now + 600)[0] == Pace(window=(now + 600) // 60, current=1)


class Machine:
    """Processes that share one table, and a clock to be moved."""

    def __init__(self, home: Path, *lines: bytes) -> None:
        self.now = NOW
        self.home = home
        self.lines = lines
        (home / "queue/pyqmail").mkdir(parents=True)
        (home / "queue/pyqmail/remotelimits").touch()

    def process(self) -> Limiter:
        """One more of them."""
        return Limiter(str(self.home), parse_limits(self.lines), lambda: self.now)


def test_connections_of_all_processes_count_together_and_by_set(tmp_path: Path) -> None:
    machine = Machine(tmp_path, b"google.com:2:", b"*:1:")
    one, other = machine.process(), machine.process()
    first, second = one.connection(b"mx1.google.com"), one.connection(b"mx2.google.com")
    assert first and second
    with pytest.raises(TemporaryFailure, match=r"Held back: google.com has all of its 2 connections. \(#4.4.5\)"):
        other.connection(b"mx3.google.com")
    assert isinstance(other.connection(b"mx.x.test"), Slot)
    first.close()
    assert other.connection(b"mx3.google.com")


def test_nobody_is_asked_for_where_no_line_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path, b"google.com:1:", b"outlook.com::")
    assert machine.process().connection(b"mx.x.test") is None
    assert machine.process().connection(b"mx.outlook.com") is None
    assert (tmp_path / "queue/pyqmail/remotelimits").read_bytes() == b""


def test_who_asks_for_less_is_left_alone_by_all_processes(tmp_path: Path) -> None:
    machine = Machine(tmp_path, b"*::")
    one, other = machine.process(), machine.process()
    one.heard(b"mx.x.test", less=False, accepted=True)
    assert (tmp_path / "queue/pyqmail/remotelimits").read_bytes() == b""
    one.heard(b"mx.x.test", less=True, accepted=False)
    for ask in (other.connection, other.message):
        with pytest.raises(TemporaryFailure, match=r"mx.x.test gets no message for 60 seconds. \(#4.4.5\)"):
            ask(b"mx.x.test")
    assert other.connection(b"mx.y.test") is None
    machine.now += 60
    slots = [other.connection(b"mx.x.test") for _ in range(10)]
    with pytest.raises(TemporaryFailure, match="has all of its 10 connections"):
        other.connection(b"mx.x.test")
    assert all(slots)
    machine.now += 60
    one.heard(b"mx.x.test", less=False, accepted=True)
    assert other.connection(b"mx.x.test") is None


def test_messages_of_all_processes_count_together(tmp_path: Path) -> None:
    machine = Machine(tmp_path, b"x.test:9:2/3600")
    one, other = machine.process(), machine.process()
    slot = one.connection(b"mx.x.test")
    other.message(b"b.x.test")
    for ask in (one.message, other.connection):
        with pytest.raises(TemporaryFailure, match=r"Held back: x.test gets no message for \d+ seconds"):
            ask(b"mx.x.test")
    machine.now += 7200
    one.message(b"mx.x.test")
    assert slot


def test_a_delivery_that_finds_no_connection_counts_as_no_message(tmp_path: Path) -> None:
    machine = Machine(tmp_path, b"x.test:1:2/3600")
    limited = machine.process()
    slot = limited.connection(b"mx.x.test")
    assert slot
    for _ in range(5):
        with pytest.raises(TemporaryFailure, match="connections"):
            limited.connection(b"mx.x.test")
    slot.close()
    assert limited.connection(b"mx.x.test")


def test_a_full_table_forgets_who_was_not_heard_of_for_longest(tmp_path: Path) -> None:
    machine = Machine(tmp_path, b"*::")
    limited = machine.process()
    for number in range(limiter.RECORDS + 1):
        limited.heard(b"mx%d.test" % number, less=True, accepted=False)
        machine.now += 1
    assert (tmp_path / "queue/pyqmail/remotelimits").stat().st_size == limiter.RECORDS * limiter.RECORD
    table = limiter.Table(str(tmp_path) + limiter.FILE)
    assert [table.read(b"mx%d.test" % number).level for number in (0, 1, limiter.RECORDS)] == [0, 1, 1]


def test_without_the_table_nothing_is_limited(tmp_path: Path) -> None:
    limited = Limiter(str(tmp_path), parse_limits([b"*:1:1/60"]), lambda: NOW)
    limited.heard(b"mx.x.test", less=True, accepted=False)
    assert limited.connection(b"mx.x.test") is limited.connection(b"mx.x.test") is None
