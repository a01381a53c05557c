"""The addresses of this machine."""

import socket

from pyqmail.policy.interfaces import local_addresses, parse_if_inet6


def test_loopback_and_the_unspecified_addresses_are_ours() -> None:
    assert {bytes((127, 0, 0, 1)), bytes(4), bytes(16)} <= local_addresses()
    assert bytes((192, 0, 2, 77)) not in local_addresses()


def test_if_inet6_lines_become_packed_addresses() -> None:
    line = b"20010db8000000000000000000000001 02 40 00 80     eth0\n"
    assert parse_if_inet6(line) == [(socket.inet_pton(socket.AF_INET6, "2001:db8::1"), b"00")]
