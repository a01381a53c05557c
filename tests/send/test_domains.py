"""Limits by domain: who waits, and who goes on."""

from hypothesis import given
from hypothesis import strategies as st

from pyqmail.send.domains import DomainLines, domain_of


def test_a_domain_is_what_follows_the_last_at_in_lower_case() -> None:
    assert domain_of(b"a@b@Big.Example") == b"big.example"


def test_only_a_domain_with_a_limit_can_be_full() -> None:
    lines: DomainLines[int] = DomainLines({b"big": 2})
    for domain in (b"big", b"other", b"big", b"other", b"other"):
        assert not lines.full(domain)
        lines.started(domain)
    assert lines.full(b"big") and not lines.full(b"other")
    lines.ended(b"big")
    assert not lines.full(b"big")


def test_what_waits_is_taken_when_there_is_room_the_domains_in_turn() -> None:
    lines: DomainLines[int] = DomainLines({b"a": 1, b"b": 1})
    for domain in (b"a", b"b"):
        lines.started(domain)
    for entry, domain in enumerate((b"a", b"a", b"b")):
        lines.hold(domain, entry)
    assert (lines.has_room, lines.take(), len(lines)) == (False, None, 3)
    lines.ended(b"a")
    lines.ended(b"b")
    assert [lines.take() for _ in range(4)] == [0, 2, 1, None]


def test_new_limits_count_what_runs() -> None:
    lines: DomainLines[int] = DomainLines({b"a": 1})
    lines.started(b"a")
    lines.hold(b"a", 7)
    lines.replace({b"a": 2, b"b": 1}, [b"a", b"b"])
    assert lines.full(b"b") and lines.take() == 7
    lines.started(b"a")
    lines.hold(b"a", 8)
    assert not lines.has_room
    lines.replace({}, [b"a", b"a"])
    assert lines.take() == 8


@given(st.lists(st.tuples(st.sampled_from("sehr"), st.sampled_from([b"a", b"b", b"c"]))))
def test_whatever_happens_what_is_taken_has_room_and_nothing_is_lost(steps: list[tuple[str, bytes]]) -> None:
    lines: DomainLines[tuple[bytes, int]] = DomainLines({b"a": 1, b"b": 2})
    running: list[bytes] = []
    held = taken = 0
    for kind, domain in steps:
        if kind == "s" and not lines.full(domain):
            lines.started(domain)
            running.append(domain)
        elif kind == "e" and domain in running:
            lines.ended(domain)
            running.remove(domain)
        elif kind == "h":
            held += 1
            lines.hold(domain, (domain, held))
        elif kind == "r":
            lines.replace({b"b": 1} if len(running) % 2 else {b"a": 1, b"b": 2}, running)
        while (entry := lines.take()) is not None:
            assert not lines.full(entry[0])
            lines.started(entry[0])
            running.append(entry[0])
            taken += 1
        assert len(lines) == held - taken
        waiting = {entry[0] for entry in lines.entries()}
        assert all(lines.full(domain) for domain in waiting)
