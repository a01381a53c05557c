"""qmail-remote on a host with global IPv6 and IPv4 addresses: a network namespace of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripted_peers import REPO

# In the namespace: a DNS server, a sink on each address named, and one delivery; prints the reports.
_SCENE = """
import contextlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.mail_sink import mail_sink
from tests.scripted_peers import dns_peer, remote_home, run_program
home, preferipv4, *listening = sys.argv[2:]
zone = {
    ("x.test.", "MX"): ["10 both.test.", "20 last.test."],
    ("both.test.", "A"): ["198.51.100.2", "198.51.100.3"],
    ("both.test.", "AAAA"): ["2001:db8:77::2", "2001:db8:77::3"],
    ("last.test.", "A"): ["198.51.100.9"],
}
with dns_peer(zone) as dns, contextlib.ExitStack() as stack:
    for address in listening:
        stack.enter_context(mail_sink(address=address, port=25))
    made = remote_home(Path(home), dnsservers=f"127.0.0.1:{dns.port}", preferipv4=preferipv4)
    status, reports = run_program("pyqmail.programs.qmail_remote", [b"x.test", b"", b"r@x.test"], made, b"x\\n\\n")
    sys.stdout.buffer.write(reports)
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A namespace whose own addresses end in 1; it serves others too, which are no addresses of an interface."""
    if os.geteuid() != 0:
        pytest.skip("needs network namespaces")
    name = f"pq6-{os.getpid()}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        for interface in ("eth0", "eth1"):
            ip("-n", name, "link", "set", interface, "up")
        ip("-n", name, "addr", "add", "198.51.100.1/24", "dev", "eth0")
        ip("-n", name, "-6", "addr", "add", "2001:db8:77::1/64", "dev", "eth0", "nodad")
        ip("netns", "exec", name, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind")
        for last in (2, 3, 9):
            ip("-n", name, "route", "add", "local", f"198.51.100.{last}/32", "dev", "lo")
            ip("-n", name, "-6", "route", "add", "local", f"2001:db8:77::{last}/128", "dev", "lo")
        yield name
    finally:
        ip("netns", "del", name)


def deliver(namespace: str, home: Path, *listening: str, preferipv4: str = "0") -> str:
    """The address that took the message."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", _SCENE, str(REPO), str(home), preferipv4]
    done = subprocess.run([*command, *listening], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"r\0K"), done.stdout
    return done.stdout[3:].split(b" ")[0].decode()


EVERYBODY = ("2001:db8:77::2", "2001:db8:77::3", "198.51.100.2", "198.51.100.3", "198.51.100.9")


def test_ipv6_comes_first_as_rfc_6724_says(namespace: str, tmp_path: Path) -> None:
    assert deliver(namespace, tmp_path, *EVERYBODY) == "2001:db8:77::2"


def test_ipv4_comes_first_with_preferipv4(namespace: str, tmp_path: Path) -> None:
    assert deliver(namespace, tmp_path, *EVERYBODY, preferipv4="1") == "198.51.100.2"


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
    namespace: str, tmp_path: Path, listening: tuple[str, ...], taken: str
) -> None:
    assert deliver(namespace, tmp_path, *listening) == taken
