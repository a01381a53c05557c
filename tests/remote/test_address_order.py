"""Destination address selection (RFC 6724)."""

import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.policy.interfaces import source_address
from pyqmail.remote.address_order import ipv4_first, order


def ip(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def ordered(*addresses: str, sources: Sequence[str] = ()) -> list[str]:
    """The order, where the nth address would be spoken to from the nth of ``sources``, "" for no way there."""
    table = {ip(address): ip(source) if source else None for address, source in zip(addresses, sources, strict=True)}
    back = {ip(address): address for address in addresses}
    return [back[packed] for packed in order(list(table), table.__getitem__)]


@pytest.mark.parametrize(
    ("addresses", "sources", "first"),
    [
        # examples of RFC 6724 section 10.2
        pytest.param(["198.51.100.121", "2001:db8:1::1"], ["198.51.100.117", "2001:db8:1::2"], 1, id="prefer IPv6"),
        pytest.param(["198.51.100.121", "2001:db8:1::1"], ["198.51.100.117", "fe80::1"], 0, id="matching scope"),
        pytest.param(["2001:db8:1::1", "10.1.2.3"], ["2001:db8:1::2", "10.1.2.4"], 0, id="higher precedence"),
        pytest.param(["2001:db8:1::1", "fe80::1"], ["2001:db8:1::2", "fe80::2"], 1, id="smaller scope"),
        pytest.param(["2002:c633:6401::1", "2001:db8:1::1"], ["2002:c633:6401::2"] * 2, 0, id="matching label"),
        pytest.param(["2001:db8:1::1", "2002:c633:6401::1"], ["2001:db8:1::2", "2002:c633:6401::2"], 0, id="6to4 last"),
        pytest.param(["fd00::1", "192.0.2.1"], ["fd00::2", "192.0.2.2"], 1, id="unique local after IPv4"),
        pytest.param(["2001:db8:2::1", "2001:db8:1::1"], ["2001:db8:1::9"] * 2, 1, id="longest prefix"),
        pytest.param(["2001:db8:1::1", "192.0.2.1"], ["", "192.0.2.2"], 1, id="no way there"),
        pytest.param(["192.0.2.9", "192.0.2.1"], ["192.0.2.2"] * 2, 0, id="IPv4 as received"),
    ],
)
def test_first_choice(addresses: list[str], sources: list[str], first: int) -> None:
    assert ordered(*addresses, sources=sources)[0] == addresses[first]


def test_ipv4_first() -> None:
    given = [ip("2001:db8::1"), ip("192.0.2.2"), ip("2001:db8::2"), ip("192.0.2.1")]
    assert ipv4_first(given) == [given[1], given[3], given[0], given[2]]


def test_source_of_loopback_is_loopback() -> None:
    assert source_address(ip("127.0.0.1")) == ip("127.0.0.1")


@given(st.lists(st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)), unique=True))
def test_nothing_is_lost_and_ipv4_keeps_its_order(addresses: list[bytes]) -> None:
    result = order(addresses, lambda packed: packed)
    assert sorted(result) == sorted(addresses)
    if all(len(packed) == 4 for packed in addresses):
        assert result == addresses
