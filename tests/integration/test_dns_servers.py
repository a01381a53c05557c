"""Look-ups at real servers on loopback: an authoritative nsd, and an unbound that asks it for us.

Sizes from a few bytes to all that TCP can carry, each by the way that the servers themselves choose; and the names that
lead nowhere, round in circles, or to servers that do not know them.
"""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyqmail.protocol.dns import Kind
from pyqmail.remote.exchangers import Exchangers, NoExchanger
from pyqmail.resolver import HardFailure, Resolver, Servers, SoftFailure
from tests.loopback import free_port
from tests.nameserver import ENVIRON, nameserver
from tests.waiting import wait_for

# records in an MX set, and how many bytes the answer has at least
SIZES = {5: 210, 13: 500, 16: 600, 31: 1140, 41: 1500, 110: 3990, 132: 4780, 471: 16_980, 1000: 36_000}
LARGEST = 1804  # 64,974 bytes; more than an unbound takes into its cache

UNBOUND = """\
server:
  interface: 127.0.0.1@{port}
  username: ""
  chroot: ""
  directory: "{base}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  do-not-query-localhost: no
  module-config: "iterator"
  local-zone: "test." nodefault
  access-control: 127.0.0.0/8 allow
remote-control:
  control-enable: no
stub-zone:
  name: "dns.test"
  stub-addr: 127.0.0.1@{authority}
"""


def zone() -> list[str]:
    """Everything the tests ask for, below dns.test."""
    return [
        "ns IN A 127.0.0.1",
        "a IN A 192.0.2.1",
        "a IN AAAA 2001:db8::1",
        "six IN AAAA 2001:db8::6",
        "text IN TXT hello",
        "plain IN MX 10 a",
        "alias IN CNAME plain",
        "chain0 IN CNAME plain",
        *(f"chain{number} IN CNAME chain{number - 1}" for number in range(1, 9)),
        "to-alias IN MX 10 a-alias",
        "a-alias IN CNAME a",
        "nowhere IN MX 10 absent",
        "nowhere IN MX 20 text",
        "dangling IN CNAME absent",
        "loop1 IN CNAME loop2",
        "loop2 IN CNAME loop1",
        "null IN MX 0 .",
        "both IN MX 0 .",
        "both IN MX 5 a",
        "six-only IN MX 10 six",
        "lame IN NS ns.lame",
        "ns.lame IN A 127.0.0.2",
        "many-addresses IN MX 10 wide",
        *(f"wide IN A 192.0.{number // 250}.{number % 250}" for number in range(900)),
        *(f"big{count} IN MX {number} m{number:018d}" for count in (*SIZES, LARGEST) for number in range(count)),
        "deliver IN MX 0 .",
        *(f"deliver IN MX 10 gone{number}" for number in range(198)),
        "deliver IN MX 20 here",
        "here IN A 192.0.2.86",
    ]


def answering(port: int) -> bool:
    try:
        return bool(Resolver(Servers((("127.0.0.1", port),), timeout_s=1), 1).mx(b"plain.dns.test"))
    except (SoftFailure, HardFailure):
        return False


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """Both servers, by name."""
    for program in ("nsd", "unbound"):
        if shutil.which(program, path=ENVIRON["PATH"]) is None:
            pytest.skip(f"needs {program}")
    found = {"nsd": free_port(), "unbound": free_port()}
    with tempfile.TemporaryDirectory(prefix="pyqmail-dns-") as name, ExitStack() as stack:
        stack.enter_context(nameserver("127.0.0.1", {"dns.test": zone()}, port=found["nsd"]))
        base = Path(name)
        (base / "unbound.conf").write_text(UNBOUND.format(base=base, port=found["unbound"], authority=found["nsd"]))
        with (base / "log").open("wb") as log:
            command = ["unbound", "-d", "-c", str(base / "unbound.conf")]
            unbound = stack.enter_context(subprocess.Popen(command, env=ENVIRON, stdout=log, stderr=log))
        stack.callback(unbound.terminate)
        wait_for(lambda: answering(found["unbound"]), "an answer from unbound")
        yield found


@pytest.fixture(params=["nsd", "unbound"])
def resolver(request: pytest.FixtureRequest, ports: dict[str, int]) -> Resolver:
    return Resolver(Servers((("127.0.0.1", ports[request.param]),), timeout_s=2), 20)


@pytest.mark.contract("remote 4.2", "remote 4.3", "remote 4.5", "remote 4.6", "remote 4.7")
@pytest.mark.parametrize("count", [pytest.param(count, id=f"{size} bytes") for count, size in SIZES.items()])
def test_an_mx_set_of_any_size_comes_whole(resolver: Resolver, count: int) -> None:
    found = resolver.mx(b"big%d.dns.test" % count)
    assert sorted((mx.preference, mx.exchanger) for mx in found) == [
        (number, b"m%018d.dns.test" % number) for number in range(count)
    ]


@pytest.mark.contract("remote 4.24")
def test_nearly_all_that_tcp_can_carry_comes_whole(ports: dict[str, int]) -> None:
    nsd = Resolver(Servers((("127.0.0.1", ports["nsd"]),)), 20)
    assert len({mx.preference for mx in nsd.mx(b"big%d.dns.test" % LARGEST)}) == LARGEST


@pytest.mark.contract("remote 4.2", "remote 4.4")
def test_every_large_answer_of_a_process_comes_whole(resolver: Resolver) -> None:
    """The reference asks over TCP only once in its life."""
    (mx,) = resolver.mx(b"many-addresses.dns.test")
    for _ in range(3):
        assert len(set(resolver.addresses(mx.exchanger, Kind.A))) == 900


def addresses(resolver: Resolver, host: bytes) -> list[str]:
    found = Exchangers(resolver, ipv6=True, prefer_ipv4=True).of_host(host + b".dns.test")
    return [socket.inet_ntop(socket.AF_INET if len(one.packed) == 4 else socket.AF_INET6, one.packed) for one in found]


@pytest.mark.contract("remote 4.17", "remote 4.18", "remote 4.22", "remote 4.23")
@pytest.mark.parametrize("host", ["plain", "alias", "chain0", "chain8", "to-alias", "both", "a"])
def test_names_that_lead_to_an_address(resolver: Resolver, host: str) -> None:
    assert addresses(resolver, host.encode()) == ["192.0.2.1", "2001:db8::1"]


def test_a_host_with_ipv6_only(resolver: Resolver) -> None:
    assert addresses(resolver, b"six-only") == addresses(resolver, b"six") == ["2001:db8::6"]


@pytest.mark.contract("remote 4.15", "remote 4.19", "remote 4.21")
@pytest.mark.parametrize(
    ("host", "failure"),
    [
        ("absent", HardFailure),
        ("text", HardFailure),
        ("null", NoExchanger),
        ("nowhere", NoExchanger),
    ],
)
def test_names_that_lead_nowhere(resolver: Resolver, host: str, failure: type[Exception]) -> None:
    with pytest.raises(failure):
        addresses(resolver, host.encode())


def test_a_cname_to_nothing_is_permanent(resolver: Resolver) -> None:
    with pytest.raises((HardFailure, NoExchanger)):
        addresses(resolver, b"dangling")


@pytest.mark.contract("remote 4.20")
def test_a_loop_of_cnames_is_what_the_server_says(ports: dict[str, int]) -> None:
    with pytest.raises(SoftFailure):
        addresses(Resolver(Servers((("127.0.0.1", ports["unbound"]),)), 20), b"loop1")
    with pytest.raises((SoftFailure, HardFailure, NoExchanger)):
        addresses(Resolver(Servers((("127.0.0.1", ports["nsd"]),)), 20), b"loop1")


def test_a_lame_delegation_is_soft(resolver: Resolver) -> None:
    with pytest.raises(SoftFailure):
        addresses(resolver, b"x.lame")


def test_200_mx_records_of_which_one_is_somebody(resolver: Resolver) -> None:
    assert addresses(resolver, b"deliver") == ["192.0.2.86"]
