"""Debian's HAProxy in front of two qmail-smtpd: who the client is, in all that depends on it; and its own checks."""

import contextlib
import os
import shutil
import smtplib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.formats.cdb import write_cdb
from pyqmail.protocol.verification import SOCKET
from pyqmail.tcp.tcprules import parse_rules
from tests.certificates import client_context, self_signed
from tests.nameserver import nameserver, own_network
from tests.programs.tcp_servers import BIN, DEADLINE_S, Running, Servers
from tests.public_directory import public_directory
from tests.waiting import wait_for

RELAY, DENIED, GOOD, BAD = (f"127.0.{number}.1" for number in (9, 8, 7, 6))
CHECKS_S = 0.5  # in which HAProxy looks five times
CONFIG = """\
global
  maxconn 50
  stats socket {base}/haproxy.sock
defaults
  mode tcp
  timeout connect 5s
  timeout check 10s
  timeout client 20s
  timeout server 20s
frontend smtp
  bind 127.0.0.1:{front}
  default_backend nodes
backend nodes
  balance roundrobin
  {check}
  server one 127.0.0.1:{one} {send} check inter 100ms
  server two 127.0.0.1:{two} {send} check inter 100ms
backend watched
  option smtpchk EHLO mx.test
  server one 127.0.0.1:{one} send-proxy check inter 100ms
  server two 127.0.0.1:{two} send-proxy check inter 100ms
"""
QUEUE = """\
#!/bin/sh
cat >{home}/messages/$$.new && mv {home}/messages/$$.new {home}/messages/$$
cat <&1 >/dev/null
"""


@pytest.fixture
def servers() -> Iterator[Servers]:
    made = Servers()
    yield made
    made.end()


@pytest.fixture(scope="module")
def resolver() -> Iterator[str]:
    address = own_network() + ".57"
    with nameserver(address, {"example": [f'sender TXT "v=spf1 ip4:{GOOD} -all"']}):
        yield address


@pytest.fixture
def home(resolver: str) -> Iterator[Path]:
    """What both nodes have: a certificate, a resolver for SPF, a program that keeps messages."""
    with public_directory() as base:
        (base / "control").mkdir()
        files = {"me": "mx.test", "rcpthosts": "here.test", "proxyhosts": "127.0.0.1", "spfbehavior": "3"}
        for name, text in {**files, "dnsservers": resolver}.items():
            (base / f"control/{name}").write_text(text + "\n")
        certificate = base / "control/servercert.pem"
        self_signed(base, "mx.test").rename(certificate)
        certificate.chmod(0o400)
        (base / "run/incoming").mkdir(parents=True)
        (base / "messages").mkdir()
        (base / "queue-program").write_text(QUEUE.format(home=base))
        (base / "queue-program").chmod(0o755)
        rules = f'{RELAY}:allow,RELAYCLIENT=""\n{DENIED}:deny\n:allow\n'
        write_cdb(str(base / "rules.cdb"), parse_rules(rules.encode()))
        process = subprocess.Popen([BIN / "qmail-verifyd"], env={"QMAIL_HOME": str(base)})
        try:
            wait_for(lambda: connects(base), "qmail-verifyd")
            yield base
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def connects(home: Path) -> bool:
    """Whether qmail-verifyd takes connections."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return sock.connect_ex(str(home) + SOCKET) == 0


def node(servers: Servers, home: Path) -> Running:
    options = ("-v", "-y", "-H", "-l", "mx.test", "-m", "2", "-x", str(home / "rules.cdb"))
    environ = {"QMAIL_HOME": str(home), "QMAILQUEUE": str(home / "queue-program")}
    return servers(*options, "--", str(BIN / "qmail-smtpd"), **environ)


def whole_log(server: Running) -> list[str]:
    """All that it has said, once it has ended."""
    server.process.terminate()
    assert server.process.stderr is not None
    return server.process.stderr.read().decode().splitlines()


class Proxy:
    """HAProxy before two nodes."""

    def __init__(self, home: Path, nodes: list[Running], send: str, check: str) -> None:
        program = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
        assert program is not None, "haproxy is not installed"
        with socket.create_server(("127.0.0.1", 0)) as held:
            self.port = held.getsockname()[1]
        one, two = (node.port for node in nodes)
        config = home / "haproxy.cfg"
        self._socket = str(home / "haproxy.sock")
        config.write_text(CONFIG.format(base=home, front=self.port, one=one, two=two, send=send, check=check))
        self.process = subprocess.Popen([program, "-db", "-q", "-f", str(config)], stderr=subprocess.DEVNULL)
        self.context = client_context(home / "control/servercert.pem")
        self.context.check_hostname = False
        wait_for(self.serves, "HAProxy")

    def serves(self) -> bool:
        """Whether a session is greeted."""
        try:
            with contextlib.closing(self.session("127.0.20.1")):
                return True
        except (OSError, smtplib.SMTPException):
            return False

    def checks(self) -> list[str]:
        """What the checks of the backend ``watched`` have found, whose header has HAProxy's own address (version 1)."""
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rw") as stream:
            sock.connect(self._socket)
            stream.write("show stat\n")
            stream.flush()
            head, *rows = [line.split(",") for line in stream.read().splitlines() if line]
        found = [dict(zip(head, row, strict=True)) for row in rows]
        return [row["check_status"] for row in found if row["# pxname"] == "watched" and row["svname"] != "BACKEND"]

    def session(self, client: str) -> smtplib.SMTP:
        """One from the address ``client``. Raises SMTPServerDisconnected where it is not greeted."""
        return smtplib.SMTP("127.0.0.1", self.port, timeout=DEADLINE_S, source_address=(client, 0))

    def send(self, client: str, recipient: str) -> None:
        """A message under TLS. Raises SMTPException."""
        with self.session(client) as session:
            session.starttls(context=self.context)
            session.sendmail("ann@sender.example", [recipient], f"Subject: {client}\n\nx\n")

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(DEADLINE_S)


@pytest.mark.parametrize(("send", "check"), [("send-proxy-v2", "option smtpchk EHLO mx.test"), ("send-proxy", "")])
def test_two_nodes_behind_haproxy_know_the_client(servers: Servers, home: Path, send: str, check: str) -> None:
    nodes = [node(servers, home) for _ in range(2)]
    with contextlib.closing(Proxy(home, nodes, send, check)) as proxy:
        for _ in nodes:  # one after the other
            proxy.send(RELAY, "x@far.test")
            proxy.send(GOOD, "x@here.test")
            with pytest.raises(smtplib.SMTPServerDisconnected):
                proxy.session(DENIED)
            with pytest.raises(smtplib.SMTPRecipientsRefused, match="550"):
                proxy.send(BAD, "x@here.test")
            with pytest.raises(smtplib.SMTPRecipientsRefused, match="553"):
                proxy.send(GOOD, "x@far.test")
        held: list[smtplib.SMTP] = []
        refused = 1  # below

        def hold() -> bool:
            nonlocal refused
            try:
                held.append(proxy.session(GOOD))
            except smtplib.SMTPServerDisconnected:
                refused += 1  # one of before has not been seen to end
            return len(held) == 2 * len(nodes)

        wait_for(hold, "as many sessions as one client may have")
        with pytest.raises(smtplib.SMTPServerDisconnected):
            proxy.session(GOOD)
        for session in held:
            session.close()
        time.sleep(CHECKS_S)  # what HAProxy's own checks leave behind, if anything
        wait_for(lambda: proxy.checks() == ["L7OK", "L7OK"], "an SMTP check of each node")
    logs = [whole_log(server) for server in nodes]
    lines = [line for log in logs for line in log]
    texts = [path.read_text() for path in (home / "messages").iterdir()]
    assert sorted(text.partition("Subject: ")[2].split()[0] for text in texts) == [GOOD, GOOD, RELAY, RELAY]
    for text in texts:
        client = text.partition("Subject: ")[2].split()[0]
        assert f"({client})\n  by " in text and "with ESMTPS" in text
    assert sum("Received-SPF: pass" in text for text in texts) == 2
    for log in logs:
        assert any(f"accepted ip={RELAY} " in line and "to=<x@far.test>" in line for line in log)
        assert any(f"refused ip={BAD} " in line for line in log)
        assert any("deny" in line and DENIED in line for line in log)
    assert sum(f"too many from {GOOD}" in line for line in lines) == refused
    assert not [line for line in lines if "ip=127.0.0.1 " in line or line.endswith(" 127.0.0.1") or "PROXY" in line], (
        lines
    )
