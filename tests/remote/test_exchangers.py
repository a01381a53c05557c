"""Which addresses may take the mail for a host."""

import socket
from collections.abc import Sequence

import pytest

from pyqmail.protocol.dns import Answer, Kind, Mx
from pyqmail.remote.exchangers import Candidate, Exchangers, NoExchanger, OnlyOurselves
from pyqmail.resolver import Found, HardFailure, Resolver, Servers, SoftFailure

Table = dict[tuple[bytes, str], list[object] | Exception]


def ip(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


class FakeResolver(Resolver):
    """Answers from a table; what is not in it has no data. ``together`` has the names of each call."""

    def __init__(self, table: Table) -> None:
        super().__init__(Servers())
        self.table = table
        self.together: list[list[tuple[bytes, str]]] = []

    def look_up(self, questions: Sequence[tuple[bytes, Kind]]) -> list[Found]:
        self.together.append([(host, kind.name) for host, kind in questions])
        return [self.find(host, kind) for host, kind in questions]

    def find(self, host: bytes, kind: Kind) -> Found:
        records = self.table.get((host, kind.name), HardFailure("no data"))
        if isinstance(records, HardFailure | SoftFailure):
            return records
        assert isinstance(records, list)
        mx = tuple(record for record in records if isinstance(record, Mx))
        addresses = tuple(ip(record) for record in records if isinstance(record, str) and record != "CNAME")
        return Answer(0, False, len(records), mx, addresses)

    @property
    def asked(self) -> list[tuple[bytes, str]]:
        return [question for call in self.together for question in call]


def exchangers(table: Table, *, ipv6: bool = False, local: Sequence[str] = (), prefer_ipv4: bool = False) -> Exchangers:
    return Exchangers(
        FakeResolver(table),
        ipv6=ipv6,
        prefer_ipv4=prefer_ipv4,
        is_own=frozenset(map(ip, local)).__contains__,
        source_of=lambda packed: packed,
    )


def found(table: Table, *, ipv6: bool = False, local: Sequence[str] = (), prefer_ipv4: bool = False) -> list[Candidate]:
    return list(exchangers(table, ipv6=ipv6, local=local, prefer_ipv4=prefer_ipv4).of_host(b"x"))


Place = tuple[bytes, int]  # a packed address and its preference


def candidates(*pairs: tuple[str, int]) -> list[Place]:
    return [(ip(text), preference) for text, preference in pairs]


def places(found: list[Candidate]) -> list[Place]:
    return [(candidate.packed, candidate.preference) for candidate in found]


@pytest.mark.contract("remote 3.2")
def test_lowest_preference_first_and_equals_at_random() -> None:
    table: Table = {
        (b"x", "MX"): [Mx(20, b"c"), Mx(10, b"a"), Mx(10, b"b")],
        (b"a", "A"): ["192.0.2.1", "192.0.2.2"],
        (b"b", "A"): ["192.0.2.3"],
        (b"c", "A"): ["192.0.2.4"],
    }
    seen = set()
    for _ in range(200):
        order = found(table)
        assert order[-1] == Candidate(ip("192.0.2.4"), 20, b"c")
        pair = [candidate for candidate in order if candidate.packed in (ip("192.0.2.1"), ip("192.0.2.2"))]
        assert places(pair) == candidates(("192.0.2.1", 10), ("192.0.2.2", 10))
        seen.add(order[0].packed)
    assert seen == {ip("192.0.2.1"), ip("192.0.2.3")}


@pytest.mark.contract("remote 3.2", "remote 4.15")
def test_without_mx_the_host_itself() -> None:
    assert places(found({(b"x", "A"): ["192.0.2.1"]})) == candidates(("192.0.2.1", 0))


@pytest.mark.contract("remote 3.2")
def test_soft_mx_is_soft() -> None:
    with pytest.raises(SoftFailure):
        found({(b"x", "MX"): SoftFailure("?"), (b"x", "A"): ["192.0.2.1"]})


@pytest.mark.contract("remote 3.2")
def test_duplicated_mx_lines_are_looked_up_and_tried_twice() -> None:
    table: Table = {(b"x", "MX"): [Mx(1, b"a"), Mx(1, b"a")], (b"a", "A"): ["192.0.2.1"]}
    assert places(found(table)) == candidates(("192.0.2.1", 1)) * 2


@pytest.mark.contract("remote 3.2", "remote 3.3")
def test_soft_exchanger_matters_only_without_any_address() -> None:
    table: Table = {(b"x", "MX"): [Mx(1, b"a"), Mx(2, b"b")], (b"a", "A"): SoftFailure("?")}
    with pytest.raises(SoftFailure):
        found(table)
    table[(b"b", "A")] = ["192.0.2.1"]
    assert places(found(table)) == candidates(("192.0.2.1", 2))


@pytest.mark.contract("remote 3.2", "remote 3.3")
def test_exchangers_without_address_leave_nobody() -> None:
    with pytest.raises(NoExchanger):
        found({(b"x", "MX"): [Mx(1, b"a")]})


@pytest.mark.contract("remote 3.3")
def test_no_mx_and_no_address_is_hard() -> None:
    with pytest.raises(HardFailure):
        found({})


@pytest.mark.contract("remote 3.2")
def test_dotted_decimal_exchanger_has_preference_0_and_keeps_its_place() -> None:
    table: Table = {(b"x", "MX"): [Mx(9, b"192.0.2.1"), Mx(5, b"a")], (b"a", "A"): ["192.0.2.2"]}
    assert places(found(table)) == candidates(("192.0.2.2", 5), ("192.0.2.1", 0))
    assert places(found(table, local=["192.0.2.2"])) == candidates(("192.0.2.1", 0))
    with pytest.raises(OnlyOurselves):
        found(table, local=["192.0.2.1"])


@pytest.mark.contract("remote 4.21")
def test_null_mx_is_nobody_and_the_root_is_not_asked() -> None:
    resolver = FakeResolver({(b"x", "MX"): [Mx(0, b"")], (b"x", "A"): ["192.0.2.1"]})
    with pytest.raises(NoExchanger):
        list(Exchangers(resolver, ipv6=True).of_host(b"x"))
    assert resolver.asked == [(b"x", "MX")]


@pytest.mark.contract("remote 4.22")
def test_null_mx_beside_others_is_ignored() -> None:
    table: Table = {(b"x", "MX"): [Mx(0, b""), Mx(5, b"a")], (b"a", "A"): ["192.0.2.1"]}
    assert places(found(table)) == candidates(("192.0.2.1", 5))


def test_both_families_of_one_exchanger_come_as_rfc_6724_says_or_ipv4_first() -> None:
    table: Table = {
        (b"x", "MX"): [Mx(5, b"a"), Mx(7, b"b")],
        (b"a", "A"): ["192.0.2.1"],
        (b"a", "AAAA"): ["2001:db8::1"],
        (b"b", "A"): ["192.0.2.2"],
    }
    assert places(found(table, ipv6=True)) == candidates(("2001:db8::1", 5), ("192.0.2.1", 5), ("192.0.2.2", 7))
    assert places(found(table, ipv6=True, prefer_ipv4=True)) == candidates(
        ("192.0.2.1", 5), ("2001:db8::1", 5), ("192.0.2.2", 7)
    )
    assert places(found(table)) == candidates(("192.0.2.1", 5), ("192.0.2.2", 7))


def test_aaaa_is_asked_without_own_ipv6_only_where_there_is_no_a_record() -> None:
    table: Table = {
        (b"x", "MX"): [Mx(5, b"a"), Mx(5, b"b")],
        (b"a", "AAAA"): ["2001:db8::1"],
        (b"b", "A"): ["192.0.2.1"],
    }
    resolver = FakeResolver(table)
    given = list(Exchangers(resolver, ipv6=False, source_of=lambda packed: packed).of_host(b"x"))
    assert set(places(given)) == set(candidates(("2001:db8::1", 5), ("192.0.2.1", 5)))
    assert (b"a", "AAAA") in resolver.asked and (b"b", "AAAA") not in resolver.asked


def test_soft_aaaa_does_not_hide_an_a_record() -> None:
    table: Table = {(b"x", "A"): ["192.0.2.1"], (b"x", "AAAA"): SoftFailure("?")}
    assert places(list(exchangers(table, ipv6=True).of_relay(b"x"))) == candidates(("192.0.2.1", 0))
    del table[(b"x", "A")]
    with pytest.raises(SoftFailure):
        list(exchangers(table, ipv6=True).of_relay(b"x"))


def test_the_exchangers_of_one_preference_are_asked_together_and_others_only_when_wanted() -> None:
    resolver = FakeResolver(
        {
            (b"x", "MX"): [Mx(1, b"a"), Mx(1, b"b"), Mx(2, b"c")],
            (b"a", "A"): ["192.0.2.1"],
            (b"b", "A"): ["192.0.2.2"],
            (b"c", "A"): ["192.0.2.3"],
        }
    )
    candidates_in_turn = Exchangers(resolver, ipv6=True, source_of=lambda packed: packed).of_host(b"x")
    next(candidates_in_turn)
    assert [len(call) for call in resolver.together] == [1, 4]
    assert len(list(candidates_in_turn)) == 2 and [len(call) for call in resolver.together] == [1, 4, 2]


@pytest.mark.contract("remote 3.4")
@pytest.mark.parametrize(
    ("local", "left"),
    [
        pytest.param([], [1, 5, 10, 10, 20], id="not listed: everybody"),
        pytest.param(["192.0.2.10"], [1, 5], id="only what is preferred to us, so not our equals"),
        pytest.param(["192.0.2.10", "192.0.2.5"], [1], id="the best of our own places counts"),
        pytest.param(["192.0.2.20"], [1, 5, 10, 10], id="the last one"),
    ],
)
def test_only_what_is_preferred_to_ourselves_stays(local: list[str], left: list[int]) -> None:
    table: Table = {(b"x", "MX"): [Mx(n, b"m%d" % n) for n in (10, 5, 20, 1)] + [Mx(10, b"m11")]}
    table |= {(b"m%d" % n, "A"): [f"192.0.2.{n}"] for n in (1, 5, 10, 11, 20)}
    assert [candidate.preference for candidate in found(table, local=local)] == left


@pytest.mark.contract("remote 3.4")
def test_nobody_is_preferred_to_ourselves() -> None:
    with pytest.raises(OnlyOurselves):
        found({(b"x", "MX"): [Mx(1, b"a")], (b"a", "A"): ["192.0.2.1"]}, local=["192.0.2.1"])
    with pytest.raises(OnlyOurselves):
        found({(b"x", "A"): ["192.0.2.1"]}, local=["192.0.2.1"])
    with pytest.raises(OnlyOurselves):
        list(exchangers({}, local=["192.0.2.1"]).of_host(b"[192.0.2.1]"))


def test_ourselves_behind_an_exchanger_that_could_not_be_found_out_is_soft() -> None:
    table: Table = {(b"x", "MX"): [Mx(1, b"a"), Mx(2, b"b")], (b"a", "A"): SoftFailure("?"), (b"b", "A"): ["192.0.2.1"]}
    with pytest.raises(SoftFailure):
        found(table, local=["192.0.2.1"])


@pytest.mark.contract("remote 4.19")
def test_a_cname_without_address_leaves_nobody() -> None:
    with pytest.raises(NoExchanger):
        found({(b"x", "A"): ["CNAME"]})


def test_the_first_address_of_an_exchanger_has_a_rival_in_the_other_family() -> None:
    table: Table = {
        (b"x.test", "MX"): [Mx(5, b"both.test"), Mx(9, b"four.test")],
        (b"both.test", "A"): ["192.0.2.1", "192.0.2.2"],
        (b"both.test", "AAAA"): ["2001:db8::1"],
        (b"four.test", "A"): ["192.0.2.3", "192.0.2.4"],
    }
    found = list(exchangers(table, ipv6=True, prefer_ipv4=True).of_host(b"x.test"))
    assert [(each.packed, each.rival) for each in found] == [
        (ip("192.0.2.1"), ip("2001:db8::1")),
        *((ip(address), b"") for address in ("192.0.2.2", "2001:db8::1", "192.0.2.3", "192.0.2.4")),
    ]
