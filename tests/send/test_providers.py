"""What qmail-send makes of deliveries that control/remotelimits holds back: who waits, with whom, and how long."""

import heapq
from pathlib import Path
from typing import cast

import pytest

from pyqmail.formats.report import HeldBack, all_in_use, paused
from pyqmail.send import providers
from pyqmail.send.providers import Providers
from pyqmail.send.shares import Shares
from pyqmail.system.loop import Loop, Timer
from tests.send.parts import OneChannel


class Hours:
    """In place of a loop: what was asked for comes when the test lets time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[Timer] = []

    def call_later(self, seconds: float, callback: object) -> Timer:
        """Noted."""
        timer = Timer(self.now + seconds, callback)  # type: ignore[arg-type]
        heapq.heappush(self._timers, timer)
        return timer

    def go(self, seconds: float) -> None:
        """So much time passes."""
        self.now += seconds
        while self._timers and self._timers[0].when <= self.now:
            timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()


@pytest.fixture
def hours() -> Hours:
    return Hours()


def made(hours: Hours, limits: dict[bytes, int] | None = None) -> tuple[Shares[int], Providers[int]]:
    shares: Shares[int] = Shares(bytes.lower, limits or {})
    return shares, Providers(cast(Loop, hours), shares)


def test_domains_of_a_provider_wait_in_one_line_until_the_pause_is_over(hours: Hours) -> None:
    shares, known = made(hours)
    shares.hold(b"a.test", 1)
    known.held_back(b"a.test", HeldBack(b"mx.test", 60, 0))
    key = known.key(b"a.test")
    known.held_back(b"b.test", HeldBack(b"mx.test", 59, 0))
    assert known.key(b"b.test") == key != b"mx.test" and known.key(b"c.test") == b"c.test"
    assert shares.full(key) and not shares.full(b"c.test") and shares.take() is None
    shares.hold(known.key(b"b.test"), 2)
    hours.go(58)
    assert shares.take() is None
    hours.go(1)
    assert [shares.take(), shares.take(), shares.take()] == [1, 2, None]


def test_who_waits_for_a_connection_goes_on_when_a_delivery_there_ends(hours: Hours) -> None:
    shares, known = made(hours)
    known.held_back(b"a.test", HeldBack(b"mx.test", 0, 2))
    key = known.key(b"a.test")
    assert shares.full(key), "nobody of ours is known to have one"
    hours.go(providers.BUSY_S)
    assert not shares.full(key)
    shares.started(key)
    shares.started(key)
    known.held_back(b"b.test", HeldBack(b"mx.test", 0, 2))
    shares.hold(key, 7)
    assert shares.take() is None
    shares.ended(key)
    assert shares.take() == 7
    shares.ended(key)
    hours.go(providers.NARROW_S)
    assert known.key(b"a.test") == b"a.test"


def test_a_provider_is_forgotten_when_nothing_waits_for_it(hours: Hours) -> None:
    shares, known = made(hours)
    known.held_back(b"a.test", HeldBack(b"mx.test", 60, 0))
    shares.hold(known.key(b"a.test"), 1)
    hours.go(60)
    assert known.key(b"a.test") != b"a.test"
    assert shares.take() == 1
    hours.go(60)
    assert known.key(b"a.test") == b"a.test"


def test_a_domain_with_a_limit_of_its_own_waits_by_itself(hours: Hours) -> None:
    shares, known = made(hours, {b"a.test": 5})
    known.held_back(b"a.test", HeldBack(b"mx.test", 60, 0))
    assert known.key(b"a.test") == b"a.test" and shares.full(b"a.test")
    shares.replace({b"a.test": 9})
    assert shares.full(b"a.test")
    hours.go(60)
    assert not shares.full(b"a.test")


def test_so_many_domains_are_known_and_no_more(hours: Hours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "DOMAINS_MAX", 2)
    _, known = made(hours)
    for domain in (b"a.test", b"b.test", b"a.test", b"c.test"):
        known.held_back(domain, HeldBack(b"mx.test", 60, 0))
    assert [known.key(domain) == domain for domain in (b"a.test", b"b.test", b"c.test")] == [False, True, False]


def test_a_delivery_that_was_held_back_is_made_as_soon_as_it_may_be(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote")
    one.place(1, b"x@a.test", b"y@c.test")
    assert [command.recipient for command in one.turn()] == [b"x@a.test", b"y@c.test"]
    one.report(0, b"Z", paused(b"mx.test", 1))
    one.place(2, b"x@a.test")
    assert one.turn() == [] and one.due() == {}
    one.loop.run_once(2)
    assert [(command.message, command.recipient) for command in one.turn()] == [
        (b"0/1", b"x@a.test"),
        (b"0/2", b"x@a.test"),
    ]
    assert any(b"deferral: Held_back:_mx.test_gets_no_message_for_1_seconds" in line for line in one.lines)


def test_when_a_deferred_one_would_be_due_the_message_waits_as_a_whole(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote")
    one.place(1, b"x@a.test", birth=1_000_000)
    assert len(one.turn()) == 1
    one.now += 400
    one.report(0, b"Z", paused(b"mx.test", 900))
    for _ in range(3):
        assert one.turn() == []
    assert not one.channel.jobs and list(one.channel.agenda.shares.entries())[-1] == 1


def test_a_report_of_a_local_delivery_holds_nothing_back(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "local")
    one.place(1, b"x@a.test")
    assert len(one.turn()) == 1
    one.report(0, b"Z", all_in_use(b"mx.test", 1))
    assert 1 in one.due()


def test_a_message_that_is_too_old_is_not_held_back(tmp_path: Path) -> None:
    one = OneChannel(tmp_path, "remote")
    one.place(1, b"x@a.test", birth=1000)
    assert len(one.turn()) == 1
    one.report(0, b"Z", paused(b"mx.test", 900))
    assert b"queue too long" in (one.queue / "bounce/1").read_bytes()
