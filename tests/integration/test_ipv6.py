"""qmail-remote on a host with global IPv6 and IPv4 addresses, and what it takes for itself: in network namespaces."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mail_sink import mail_sink
from tests.namespaces import inside, ip, joined
from tests.scripted_peers import dns_peer, remote_home, run_program, smtp_peer

ZONE = {
    ("x.test.", "MX"): ["10 both.test.", "20 last.test."],
    ("both.test.", "A"): ["198.51.100.2", "198.51.100.3"],
    ("both.test.", "AAAA"): ["2001:db8:77::2", "2001:db8:77::3"],
    ("last.test.", "A"): ["198.51.100.9"],
    ("alias.test.", "MX"): ["CNAME x.test.", "MX 5 last.test."],
    ("here.test.", "MX"): ["10 own.test."],
}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Our own namespace, whose addresses end in 1, and that of all others."""
    if os.geteuid() != 0:
        pytest.skip("needs network namespaces")
    others = [*(f"198.51.100.{last}/24" for last in (2, 3, 9)), *(f"2001:db8:77::{last}/64" for last in (2, 3))]
    with joined(["198.51.100.1/24", "2001:db8:77::1/64"], others) as names:
        yield names


def send(hosts: tuple[str, str], home: Path, zone: dict[tuple[str, str], list[str]], host: bytes, **more: str) -> bytes:
    """The reports of a delivery to ``host`` from the first namespace."""
    with inside(hosts[0]), dns_peer(zone) as dns:
        made = remote_home(home, dnsservers=f"127.0.0.1:{dns.port}", **more)
        return run_program("pyqmail.programs.qmail_remote", [host, b"s@" + host, b"r@" + host], made, b"x\n\n")[1]


def deliver(hosts: tuple[str, str], home: Path, *listening: str, preferipv4: str = "0") -> str:
    """The address that took the message."""
    with ExitStack() as stack:
        with inside(hosts[1]):
            for address in listening:
                stack.enter_context(mail_sink(address=address, port=25))
        reports = send(hosts, home, ZONE, b"x.test", preferipv4=preferipv4)
    assert reports.startswith(b"r\0K"), reports
    return reports[3:].split(b" ")[0].decode()


EVERYBODY = ("2001:db8:77::2", "2001:db8:77::3", "198.51.100.2", "198.51.100.3", "198.51.100.9")


def test_ipv6_comes_first_as_rfc_6724_says(hosts: tuple[str, str], tmp_path: Path) -> None:
    assert deliver(hosts, tmp_path, *EVERYBODY) == "2001:db8:77::2"


def test_ipv4_comes_first_with_preferipv4(hosts: tuple[str, str], tmp_path: Path) -> None:
    assert deliver(hosts, tmp_path, *EVERYBODY, preferipv4="1") == "198.51.100.2"


@pytest.mark.parametrize(
    ("listening", "taken"),
    [
        (("2001:db8:77::3", "198.51.100.2"), "2001:db8:77::3"),
        (("198.51.100.2", "198.51.100.9"), "198.51.100.2"),
        (("198.51.100.3", "198.51.100.9"), "198.51.100.3"),
        (("198.51.100.9",), "198.51.100.9"),
    ],
    ids=["the other IPv6 address", "IPv4 of the same exchanger", "its other IPv4 address", "the next exchanger"],
)
def test_each_address_is_tried_when_those_before_refuse(
    hosts: tuple[str, str], tmp_path: Path, listening: tuple[str, ...], taken: str
) -> None:
    assert deliver(hosts, tmp_path, *listening) == taken


def test_the_next_exchanger_is_tried_after_a_greeting_that_is_none(hosts: tuple[str, str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        with inside(hosts[1]):
            busy = stack.enter_context(smtp_peer([b"554 not today\r\n"], "198.51.100.2", 25))
            sink = stack.enter_context(mail_sink(address="198.51.100.9", port=25))
        reports = send(hosts, tmp_path, ZONE, b"x.test", preferipv4="1")
    assert reports.startswith(b"r\0K198.51.100.9 accepted message.\n")
    assert (busy.connections, len(sink.taken)) == (1, 1)


@pytest.mark.contract("remote 4.1", "remote 4.4")
def test_the_domain_of_the_recipient_stays_what_it_was(hosts: tuple[str, str], tmp_path: Path) -> None:
    """A CNAME is followed by the name server only; the envelope is left alone (RFC 5321 section 2.3.5)."""
    with ExitStack() as stack:
        with inside(hosts[1]):
            sink = stack.enter_context(mail_sink(address="198.51.100.9", port=25))
        assert send(hosts, tmp_path, ZONE, b"alias.test").startswith(b"r\0K")
    assert sink.taken[0].recipients == [b"<r@alias.test>"] and sink.taken[0].sender == b"<s@alias.test>"


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("198.51.100.1", id="an address of an interface"),
        pytest.param("127.0.0.2", id="another loopback address"),
        pytest.param("127.255.255.254", id="the last loopback address"),
        pytest.param("0.0.0.0", id="the unspecified address"),
        pytest.param("0.1.2.3", id="an address of this network"),
        pytest.param("203.0.113.7", id="an address that only the routing table calls local"),
        pytest.param("::1", id="IPv6 loopback"),
        pytest.param("::", id="the unspecified IPv6 address"),
        pytest.param("::ffff:127.0.0.9", id="loopback in IPv6 clothes"),
        pytest.param("2001:db8:77::1", id="an IPv6 address of an interface"),
    ],
)
def test_an_exchanger_that_leads_to_this_machine_is_no_connection(
    hosts: tuple[str, str], tmp_path: Path, address: str
) -> None:
    ip("-n", hosts[0], "route", "replace", "local", "203.0.113.0/24", "dev", "lo")
    kind = "AAAA" if ":" in address else "A"
    with ExitStack() as stack:
        with inside(hosts[0]):
            door = stack.enter_context(smtp_peer([b"421 no\r\n"], "::" if kind == "AAAA" else "0.0.0.0", 25))
        reports = send(hosts, tmp_path, {**ZONE, ("own.test.", kind): [address]}, b"here.test")
    assert reports.endswith(b"(#5.4.6)\n\0")
    assert door.connections == 0
