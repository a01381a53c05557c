"""Which addresses may take the mail for a host."""

import socket

import pytest

from pyqmail.policy.exchangers import Candidate, Exchangers, spare_ourselves
from pyqmail.protocol.dns import Kind, Mx
from pyqmail.resolver import HardFailure, Resolver, Servers, SoftFailure

Records = tuple[bytes, ...] | tuple[Mx, ...] | Exception


def ip(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


class FakeResolver(Resolver):
    """Answers from a table; what is not in it has no data."""

    def __init__(self, table: dict[tuple[bytes, str], list[object] | Exception]) -> None:
        super().__init__(Servers())
        self.table = table
        self.asked: list[tuple[bytes, str]] = []

    def look(self, host: bytes, kind: str) -> list[object]:
        self.asked.append((host, kind))
        found = self.table.get((host, kind), HardFailure("no data"))
        if isinstance(found, Exception):
            raise found
        return found

    def mx(self, host: bytes) -> tuple[Mx, ...]:
        return tuple(mx for mx in self.look(host, "MX") if isinstance(mx, Mx))

    def addresses(self, host: bytes, kind: Kind) -> tuple[bytes, ...]:
        return tuple(ip(text) for text in self.look(host, kind.name) if isinstance(text, str))


def exchangers(table: dict[tuple[bytes, str], list[object] | Exception], *, ipv6: bool = False) -> Exchangers:
    return Exchangers(FakeResolver(table), ipv6=ipv6)


@pytest.mark.contract("remote 3.2")
def test_lowest_preference_first_and_equals_at_random() -> None:
    table: dict[tuple[bytes, str], list[object] | Exception] = {
        (b"x", "MX"): [Mx(20, b"c"), Mx(10, b"a"), Mx(10, b"b")],
        (b"a", "A"): ["192.0.2.1", "192.0.2.2"],
        (b"b", "A"): ["192.0.2.3"],
        (b"c", "A"): ["192.0.2.4"],
    }
    seen = set()
    for _ in range(200):
        found = exchangers(table).of_host(b"x")
        assert found[-1] == Candidate(ip("192.0.2.4"), 20)
        seen.add(found[0].packed)
    assert seen == {ip("192.0.2.1"), ip("192.0.2.3")}


@pytest.mark.contract("remote 3.2", "remote 4.11")
def test_without_mx_the_host_itself() -> None:
    assert exchangers({(b"x", "A"): ["192.0.2.1"]}).of_host(b"x") == [Candidate(ip("192.0.2.1"), 0)]


@pytest.mark.contract("remote 3.2")
def test_soft_mx_is_soft() -> None:
    with pytest.raises(SoftFailure):
        exchangers({(b"x", "MX"): SoftFailure("?"), (b"x", "A"): ["192.0.2.1"]}).of_host(b"x")


@pytest.mark.contract("remote 3.3")
def test_soft_exchanger_matters_only_without_any_address() -> None:
    table: dict[tuple[bytes, str], list[object] | Exception] = {
        (b"x", "MX"): [Mx(1, b"a"), Mx(2, b"b")],
        (b"a", "A"): SoftFailure("?"),
    }
    with pytest.raises(SoftFailure):
        exchangers(table).of_host(b"x")
    table[(b"b", "A")] = ["192.0.2.1"]
    assert exchangers(table).of_host(b"x") == [Candidate(ip("192.0.2.1"), 2)]


@pytest.mark.contract("remote 3.3")
def test_exchangers_without_address_leave_nobody() -> None:
    assert exchangers({(b"x", "MX"): [Mx(1, b"a")]}).of_host(b"x") == []


@pytest.mark.contract("remote 3.2")
def test_dotted_decimal_exchanger_has_preference_0() -> None:
    assert exchangers({(b"x", "MX"): [Mx(9, b"192.0.2.1")]}).of_host(b"x") == [Candidate(ip("192.0.2.1"), 0)]


@pytest.mark.contract("remote 4.17")
def test_null_mx_is_nobody_and_the_root_is_not_asked() -> None:
    resolver = FakeResolver({(b"x", "MX"): [Mx(0, b"")], (b"x", "A"): ["192.0.2.1"]})
    assert Exchangers(resolver, ipv6=True).of_host(b"x") == []
    assert resolver.asked == [(b"x", "MX")]


@pytest.mark.contract("remote 4.18")
def test_null_mx_beside_others_is_ignored() -> None:
    table: dict[tuple[bytes, str], list[object] | Exception] = {
        (b"x", "MX"): [Mx(0, b""), Mx(5, b"a")],
        (b"a", "A"): ["192.0.2.1"],
    }
    assert exchangers(table).of_host(b"x") == [Candidate(ip("192.0.2.1"), 5)]


def test_ipv6_follows_ipv4_within_an_exchanger() -> None:
    table: dict[tuple[bytes, str], list[object] | Exception] = {
        (b"x", "MX"): [Mx(5, b"a")],
        (b"a", "A"): ["192.0.2.1"],
        (b"a", "AAAA"): ["2001:db8::1"],
    }
    both = [Candidate(ip("192.0.2.1"), 5), Candidate(ip("2001:db8::1"), 5)]
    assert exchangers(table, ipv6=True).of_host(b"x") == both
    assert exchangers(table).of_host(b"x") == both[:1]
    assert Exchangers(FakeResolver(table), ipv6=True, prefer_ipv4=False).of_host(b"x") == both[::-1]
    del table[(b"a", "A")]
    assert exchangers(table).of_host(b"x") == both[1:]


def test_soft_aaaa_does_not_hide_an_a_record() -> None:
    table: dict[tuple[bytes, str], list[object] | Exception] = {
        (b"x", "A"): ["192.0.2.1"],
        (b"x", "AAAA"): SoftFailure("?"),
    }
    assert exchangers(table, ipv6=True).of_relay(b"x") == [Candidate(ip("192.0.2.1"), 0)]


@pytest.mark.contract("remote 3.4")
def test_only_what_is_preferred_to_ourselves_stays() -> None:
    us, other = Candidate(b"usus", 10), Candidate(b"othe", 5)
    equal, best = Candidate(b"equa", 10), Candidate(b"best", 1)
    local = frozenset((b"usus",))
    assert spare_ourselves([best, other, us, equal], local) == [best, other]
    assert spare_ourselves([us, equal], local) == []
    assert spare_ourselves([equal, other], local) == [equal, other]
