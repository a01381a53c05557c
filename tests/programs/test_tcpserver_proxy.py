"""tcpserver -y: the client that a PROXY header names, from listed proxies only (tests/integration/test_haproxy)."""

import struct
import time
from pathlib import Path

from pyqmail.protocol.proxy import SIGNATURE
from pyqmail.tcp.proxy import HEADER_S, Hosts, parse_hosts
from tests.loopback import everything
from tests.programs.tcp_servers import Running, Servers
from tests.programs.test_tcpserver_warm import home, rules

__all__ = ["home"]

SHOW = (
    "sh",
    "-c",
    'echo "$TCPREMOTEIP $TCPREMOTEPORT $TCPLOCALIP $TCPLOCALPORT ${RELAYCLIENT-none} ${TCPREMOTEINFO-none}"; cat',
)
HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\r\n"
CHECK = SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)


def start(servers: Servers, home: Path, *options: str, program: tuple[str, ...] = SHOW) -> Running:
    (home / "control/proxyhosts").write_text("127.0.0.0/8\n# more\n2001:db8::1\n")
    return servers(*options, "-y", "-H", "-l", "mx.test", "--", *program, QMAIL_HOME=str(home))


def test_a_listed_proxy_says_who_the_client_is(servers: Servers, home: Path) -> None:
    table = rules(home, '192.0.2.1:allow,RELAYCLIENT=""\n127.:deny\n')
    server = start(servers, home, "-v", "-x", table)
    assert server.talk(HEADER + b"QUIT\r\n") == b"192.0.2.1 56324 198.51.100.1 25  none\nQUIT\r\n"
    assert server.line_with(" from ").endswith(" from 192.0.2.1")
    assert ":198.51.100.1:25 :192.0.2.1::56324" in server.line_with("tcpserver: ok ")


def test_the_proxys_own_checks_may_relay_nothing_and_have_no_line(servers: Servers, home: Path) -> None:
    table = rules(home, ':allow,RELAYCLIENT=""\n')
    server = start(servers, home, "-v", "-x", table, "-m", "1")
    unknown = b"PROXY UNKNOWN\r\n"
    own = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"
    mapped = b"PROXY TCP6 ::ffff:127.0.0.1 ::ffff:127.0.0.1 1 2\r\n"
    for header in (CHECK, unknown, own, mapped):
        shown = server.talk(header + b"x")
        assert shown.startswith(b"127.0.0.1 ") and shown.endswith(b" none none\nx")
    server.connect().close()  # a plain check: no header at all
    assert server.talk(HEADER).startswith(b"192.0.2.1 56324")
    server.line_with(" from 192.0.2.1")
    assert not [line for line in server.lines if "127.0.0.1" in line or "warning" in line]


def test_a_stranger_is_dropped_unread(servers: Servers, home: Path) -> None:
    server = start(servers, home)
    (home / "control/proxyhosts").write_text("192.0.2.0/24\n")
    assert server.talk(HEADER) == b""
    assert server.line() == "tcpserver: warning: dropping connection, 127.0.0.1 is not in control/proxyhosts"
    (home / "control/proxyhosts").unlink()
    assert server.talk(HEADER) == b""


def test_without_a_header_nobody_is_served(servers: Servers, home: Path) -> None:
    server = start(servers, home)
    assert server.talk(b"EHLO client.test\r\n") == b""
    assert server.line().endswith("dropping connection, it does not begin with a PROXY header")
    begun = time.monotonic()
    with server.connect() as client:
        client.sendall(HEADER[:20])
        assert everything(client) == b""
    assert HEADER_S - 0.5 < time.monotonic() - begun < HEADER_S * 4
    assert server.line().endswith("dropping connection, no PROXY header in time")


def test_limits_are_of_the_client_and_not_of_the_proxy(servers: Servers, home: Path) -> None:
    server = start(servers, home, "-m", "1")
    with server.connect() as first:
        first.sendall(HEADER)
        assert first.recv(100).startswith(b"192.0.2.1")
        assert server.talk(HEADER) == b""
        assert server.line().endswith("too many from 192.0.2.1")
        assert server.talk(HEADER.replace(b"192.0.2.1", b"192.0.2.2")).startswith(b"192.0.2.2")


def test_lines_of_proxyhosts() -> None:
    hosts = parse_hosts((b"10.1.2.3", b"192.0.2.77/24", b"2001:db8::/32", b"proxy.test", b"300.1.1.1"))
    assert hosts.faults == (b"proxy.test", b"300.1.1.1")
    assert [hosts.have(ip) for ip in ("10.1.2.3", "::ffff:10.1.2.3", "192.0.2.1", "2001:db8::9", "10.1.2.4")] == [
        True, True, True, True, False,
    ]  # fmt: skip
    assert not Hosts(()).have("127.0.0.1")
