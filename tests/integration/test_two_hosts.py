"""Two hosts in network namespaces, each an installed tree: mail goes by MX, and a bounce comes back."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import USER
from tests.integration.mailhost import MailHost, fresh_maildir, install, messages, wait_for

ZONE = """\
$ORIGIN {name}.
$TTL 60
@ IN SOA ns.{name}. root.{name}. 1 60 60 60 60
@ IN NS ns.{name}.
@ IN MX 10 mx.{name}.
ns IN A 10.213.77.2
mx IN A {address}
"""
NSD = """\
server:
  ip-address: 10.213.77.2@5300
  username: ""
  zonesdir: "{base}"
  database: ""
  pidfile: ""
  xfrdfile: "{base}/xfrd"
  zonelistfile: "{base}/zones.list"
  xfrdir: "{base}"
  server-count: 1
remote-control:
  control-enable: no
zone:
  name: "one.test"
  zonefile: "one.test.zone"
zone:
  name: "two.test"
  zonefile: "two.test.zone"
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a veth pair: 10.213.77.1 and 10.213.77.2."""
    names = (f"pq1-{os.getpid()}", f"pq2-{os.getpid()}")
    for name in names:
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
    for number, name in enumerate(names, 1):
        ip("-n", name, "addr", "add", f"10.213.77.{number}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
    yield names
    for name in names:
        ip("netns", "del", name)


@pytest.fixture(scope="module")
def nameserver(network: tuple[str, str]) -> Iterator[None]:
    """A real nsd in the second namespace with the zones of both hosts."""
    base = Path(tempfile.mkdtemp(prefix="pyqmail-nsd-"))
    for name, address in (("one.test", "10.213.77.1"), ("two.test", "10.213.77.2")):
        (base / f"{name}.zone").write_text(ZONE.format(name=name, address=address))
    (base / "nsd.conf").write_text(NSD.format(base=base))
    server = subprocess.Popen(["ip", "netns", "exec", network[1], "nsd", "-d", "-c", str(base / "nsd.conf")])
    try:
        wait_for(lambda: answers(network[0]), "the name server")
        yield
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(base, ignore_errors=True)


def answers(namespace: str) -> bool:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "dig", "+short", "+time=1", "+tries=1", "-p", "5300", "@10.213.77.2", "MX",
         "two.test"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "mx.two.test." in done.stdout


@pytest.fixture
def hosts(network: tuple[str, str], nameserver: None) -> Iterator[tuple[MailHost, MailHost]]:
    base = Path(tempfile.mkdtemp(prefix="pyqmail-hosts-"))
    base.chmod(0o755)
    made = []
    for namespace, name in zip(network, ("one.test", "two.test"), strict=True):
        home = base / name
        install(home, me=f"mx.{name}\n", locals=f"{name}\n", rcpthosts=f"{name}\n", defaulthost=f"{name}\n",
                defaultdomain=f"{name}\n", plusdomain=f"{name}\n", dnsservers="10.213.77.2:5300\n")  # fmt: skip
        host = MailHost(home, ("ip", "netns", "exec", namespace), "0", 25)
        host.log.touch()
        made.append(host)
    for host in made:
        host.start_delivery()
        host.start_smtp()
    yield made[0], made[1]
    for host in made:
        host.stop()
    shutil.rmtree(base, ignore_errors=True)


def send(host: MailHost, sender: str, recipient: str, text: str) -> None:
    command = [*host.prefix, str(host.home / "bin" / "sendmail"), "-f", sender, recipient]
    subprocess.run(command, input=text.encode(), check=True, env=host.environ(), timeout=60)


def test_mail_finds_the_other_host_by_mx(hosts: tuple[MailHost, MailHost]) -> None:
    base = fresh_maildir(USER)
    send(hosts[0], "ann@one.test", f"{USER}@two.test", "Subject: by MX\n\nhello\n.dot\n")
    wait_for(lambda: len(os.listdir(base / "new")) == 1, "the message at the other host")
    (message,) = messages(base)
    assert message["Delivered-To"] == f"{USER}@two.test"
    received = message.get_all("Received")
    assert received is not None and len(received) == 3 and "10.213.77.1" in received[1]
    assert message.get_payload() == "hello\n.dot\n"
    assert "accepted_message" in hosts[0].log.read_text()


def test_the_bounce_for_an_unknown_user_comes_back(hosts: tuple[MailHost, MailHost]) -> None:
    base = fresh_maildir(USER)
    send(hosts[0], f"{USER}@one.test", "nosuch-user@two.test", "Subject: lost\n\nwhere to?\n")
    wait_for(lambda: len(os.listdir(base / "new")) == 1, "the bounce")
    (message,) = messages(base)
    text = message.get_payload()
    assert isinstance(text, str)
    assert message["Return-Path"] == "<>" and message["Delivered-To"] == f"{USER}@one.test"
    assert "<nosuch-user@two.test>:" in text and "#5.1.1" in text
    for host in hosts:
        wait_for(lambda host=host: host.queued() == 0, "an empty queue")  # type: ignore[misc]
