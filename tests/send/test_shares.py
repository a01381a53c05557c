"""Limits by domain: who waits, and who goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.send.shares import Shares, domain_of, share_of, user_of


def test_a_domain_is_what_follows_the_last_at_in_lower_case() -> None:
    assert domain_of(b"a@b@Big.Example") == b"big.example"


def test_only_a_domain_with_a_limit_can_be_full() -> None:
    shares: Shares[int] = Shares(bytes.lower, {b"big": 2})
    for domain in (b"big", b"other", b"big", b"other", b"other"):
        assert not shares.full(domain)
        shares.started(domain)
    assert shares.full(b"big") and not shares.full(b"other")
    shares.ended(b"big")
    assert not shares.full(b"big")


def test_what_waits_is_taken_when_there_is_room_the_domains_in_turn() -> None:
    shares: Shares[int] = Shares(bytes.lower, {b"a": 1, b"b": 1})
    for domain in (b"a", b"b"):
        shares.started(domain)
    for entry, domain in enumerate((b"a", b"a", b"b")):
        shares.hold(domain, entry)
    assert (shares.has_room, shares.take(), len(shares)) == (False, None, 3)
    shares.ended(b"a")
    shares.ended(b"b")
    assert [shares.take() for _ in range(4)] == [0, 2, 1, None]


def test_new_limits_count_what_runs() -> None:
    shares: Shares[int] = Shares(bytes.lower, {b"a": 1})
    shares.started(b"a")
    shares.hold(b"a", 7)
    shares.started(b"b")
    shares.replace({b"a": 2, b"b": 1})
    assert shares.full(b"b") and shares.take() == 7
    shares.started(b"a")
    shares.hold(b"a", 8)
    assert not shares.has_room
    shares.replace({})
    assert shares.take() == 8


@given(st.lists(st.tuples(st.sampled_from("sehr"), st.sampled_from([b"a", b"b", b"c"]))))
def test_whatever_happens_what_is_taken_has_room_and_nothing_is_lost(steps: list[tuple[str, bytes]]) -> None:
    shares: Shares[tuple[bytes, int]] = Shares(bytes.lower, {b"a": 1, b"b": 2})
    running: list[bytes] = []
    held = taken = 0
    for kind, domain in steps:
        if kind == "s" and not shares.full(domain):
            shares.started(domain)
            running.append(domain)
        elif kind == "e" and domain in running:
            shares.ended(domain)
            running.remove(domain)
        elif kind == "h":
            held += 1
            shares.hold(domain, (domain, held))
        elif kind == "r":
            shares.replace({b"b": 1} if len(running) % 2 else {b"a": 1, b"b": 2})
        while (entry := shares.take()) is not None:
            assert not shares.full(entry[0])
            shares.started(entry[0])
            running.append(entry[0])
            taken += 1
        assert len(shares) == held - taken
        waiting = {entry[0] for entry in shares.entries()}
        assert all(shares.full(domain) for domain in waiting)


def test_the_default_holds_for_every_key_without_a_limit_of_its_own() -> None:
    shares: Shares[int] = Shares(bytes.lower, {b"big": 2}, 1)
    for key in (b"big", b"other"):
        shares.started(key)
    assert shares.full(b"other") and not shares.full(b"big") and not shares.full(b"third")


@pytest.mark.parametrize(("slots", "share"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 3), (10, 8), (20, 15), (255, 192)])
def test_a_share_is_three_quarters_and_leaves_a_slot(slots: int, share: int) -> None:
    assert share_of(slots) == share


@pytest.mark.parametrize(
    ("recipient", "user"),
    [
        (b"joe@here.example", b"joe"),
        (b"Joe-list-owner@here.example", b"joe"),
        (b"v.example-box@v.example", b"v.example"),
        (b"-x@here.example", b""),
        (b"a@b-c@here.example", b"a@b"),
    ],
)
def test_a_user_is_the_box_up_to_the_break_character(recipient: bytes, user: bytes) -> None:
    assert user_of(recipient, b"-") == user
