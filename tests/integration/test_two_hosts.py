"""Two hosts in network namespaces, each an installed tree: mail goes by MX, and a bounce comes back."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.conftest import USER
from tests.integration.mailhost import MailHost, fresh_maildir, install, messages
from tests.nameserver import nameserver
from tests.namespaces import joined
from tests.public_directory import public_directory
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[str, str]]:
    """Two namespaces: 10.213.77.1 and 10.213.77.2."""
    with joined(["10.213.77.1/24"], ["10.213.77.2/24"]) as names:
        yield names


@pytest.fixture(scope="module")
def names(network: tuple[str, str]) -> Iterator[str]:
    """A real name server in the second namespace with the zones of both hosts."""
    zones = {
        name: ["ns IN A 10.213.77.2", "@ IN MX 10 mx", f"mx IN A {address}"]
        for name, address in (("one.test", "10.213.77.1"), ("two.test", "10.213.77.2"))
    }
    with nameserver("10.213.77.2", zones, port=5300, within=("ip", "netns", "exec", network[1])) as address:
        yield address


@pytest.fixture
def hosts(network: tuple[str, str], names: str) -> Iterator[tuple[MailHost, MailHost]]:
    with public_directory() as base:
        made = []
        for namespace, name in zip(network, ("one.test", "two.test"), strict=True):
            home = base / name
            install(home, me=f"mx.{name}\n", locals=f"{name}\n", rcpthosts=f"{name}\n", defaulthost=f"{name}\n",
                    defaultdomain=f"{name}\n", plusdomain=f"{name}\n", dnsservers=f"{names}:5300\n")  # fmt: skip
            host = MailHost(home, ("ip", "netns", "exec", namespace), "0", 25)
            host.log.touch()
            made.append(host)
        for host in made:
            host.start_delivery()
            host.start_smtp()
        yield made[0], made[1]
        for host in made:
            host.stop()


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
    wait_for(lambda: "accepted_message" in hosts[0].log.read_text(), "the line of the host that sent it")


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


def passed(hosts: tuple[MailHost, MailHost]) -> int:
    """The messages that the queues of both hosts have had."""
    return sum(host.log.read_text().count("new msg ") for host in hosts)


def is_quiet(hosts: tuple[MailHost, MailHost]) -> bool:
    """Whether everything has left both queues."""
    return all(host.queued() == 0 for host in hosts)


def test_forwards_that_go_round_between_two_hosts_and_double_each_time_end(
    hosts: tuple[MailHost, MailHost],
) -> None:
    base = fresh_maildir(USER)
    instructions = base.parent / ".qmail-round"
    instructions.write_text(f"&{USER}-round@one.test\n&{USER}-round@two.test\n")
    try:
        send(hosts[0], f"{USER}@one.test", f"{USER}-round@one.test", "Subject: round\n\nand round\n")
        wait_for(lambda: len(os.listdir(base / "new")) == 3, "a bounce for each way that goes round")
        wait_for(lambda: is_quiet(hosts), "empty queues")
    finally:
        instructions.unlink()
    assert all("This message is looping" in str(message.get_payload()) for message in messages(base))
    assert passed(hosts) == 9, "three here and two there, and the bounces, one of which came from there"


def test_bounces_of_senders_and_postmasters_that_do_not_exist_end_by_themselves(
    hosts: tuple[MailHost, MailHost],
) -> None:
    for number in range(5):
        send(hosts[0], "no-such-sender@two.test", f"no-such-{number}@two.test", "Subject: lost\n\nx\n")
    wait_for(lambda: hosts[0].log.read_text().count("triple bounce: discarding") == 5, "the last of the bounces")
    wait_for(lambda: is_quiet(hosts), "empty queues")
    assert passed(hosts) == 15, "for each message its bounce, and the bounce of that"
