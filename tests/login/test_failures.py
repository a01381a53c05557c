"""Who has guessed waits; who is guessed at hardly does."""

import pytest

from pyqmail.login import failures
from pyqmail.login.failures import FORGET_S, KNOWN_MAX, Failures, network_of


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"192.0.2.1", b"192.0.2.1", True),
        (b"192.0.2.1", b"192.0.2.2", False),
        (b"192.0.2.1", b"::ffff:192.0.2.1", True),
        (b"2001:db8::1", b"2001:db8::ffff:2", True),
        (b"2001:db8::1", b"2001:db8:0:1::1", False),
        (b"unknown", b"unknown", True),
        (b"", b"\xff", False),
    ],
)
def test_networks(one: bytes, other: bytes, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


def waits(tries: int, network: bytes, user: bytes) -> list[float]:
    """What each of so many wrong passwords had to wait before it."""
    failures = Failures()
    found = []
    for _ in range(tries):
        found.append(failures.wait_s(network, user, 0.0))
        failures.failed(network, user, 0.0)
    return found


def test_one_slip_costs_nothing_and_guessing_more_and_more() -> None:
    assert waits(10, b"n", b"ann") == [0, 0, 1, 2, 4, 8, 16, 32, 32, 32]


def test_the_right_password_ends_the_wait_and_so_does_time() -> None:
    failures = Failures()
    for _ in range(4):
        failures.failed(b"n", b"ann", 0.0)
    assert failures.wait_s(b"n", b"ann", FORGET_S - 1) == 4
    assert failures.wait_s(b"n", b"ann", FORGET_S) == 0
    failures.succeeded(b"n", b"ann")
    assert failures.wait_s(b"n", b"ann", 1) == 0


def test_a_network_that_tries_many_users_waits_too() -> None:
    failures = Failures()
    for number in range(7):
        failures.failed(b"n", b"%d" % number, 0.0)
    assert failures.wait_s(b"n", b"somebody else", 0.0) == 2
    assert failures.wait_s(b"another", b"somebody else", 0.0) == 0


def test_who_is_guessed_at_from_everywhere_waits_at_most_two_seconds() -> None:
    failures = Failures()
    for number in range(1000):
        failures.failed(b"%d" % number, b"ann", 0.0)
    assert failures.wait_s(b"home", b"ann", 0.0) == 2.0


def test_memory_is_bounded() -> None:
    failures = Failures()
    for number in range(KNOWN_MAX):
        failures.failed(b"%d" % number, b"%d" % number, 0.0)
    assert len(failures._known) == KNOWN_MAX


def test_counts_go_on_in_another_process() -> None:
    failures = Failures()
    for _ in range(4):
        failures.failed(b"\x00n", b"ann@x.test", 100.0)
    saved = failures.saved()
    after = Failures()
    after.restore(saved, 101.0)
    assert after.wait_s(b"\x00n", b"ann@x.test", 101.0) == 4
    assert after.saved() == saved
    late = Failures()
    late.restore(saved, 100.0 + FORGET_S)
    early = Failures()
    early.restore(saved, 99.0)  # of another boot
    assert late.saved() == early.saved() == b""


@pytest.mark.parametrize("data", [b"x", b"1 2 3", b"1 nan - -\n", b"-1 5 - -", b"1 5 zz -", b"\xff" * 50, b"9" * 5000])
def test_what_is_no_count_is_left_out(data: bytes) -> None:
    failures = Failures()
    failures.restore(data, 10.0)
    assert failures.saved() == b""


def test_who_was_right_is_known_by_network_and_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "KNOWN_MAX", 2)
    counts = Failures()
    assert not counts.was_right(b"net", b"ann")
    for user in (b"ann", b"bob", b"ann", b"eve"):
        counts.succeeded(b"net", user)
    assert counts.was_right(b"net", b"ann") and not counts.was_right(b"other", b"ann")
    assert not counts.was_right(b"net", b"bob")  # the oldest of too many
