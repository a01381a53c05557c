"""DNS lists that a session asks about its client, at a real name server."""

from collections.abc import Iterator

import pytest

from pyqmail.incoming.dns_lists import Zone, parse_zone
from tests.incoming.test_lists import MAIL, leave, rcpts, replies
from tests.incoming.test_security import Client
from tests.nameserver import nameserver, own_network
from tests.programs.door import Door, door_of

ADDRESS = f"{own_network()}.55"
ZONES = {
    "list.test": ["7.2.0.192 A 127.0.0.4", '7.2.0.192 TXT "listed: see list.test"'],
    "refusing.test": ["7.2.0.192 A 127.255.255.254", '7.2.0.192 TXT "Error: open resolver"'],
    "friends.test": ["7.2.0.192 A 127.0.0.2"],
}


@pytest.fixture(scope="module")
def dns() -> Iterator[str]:
    with nameserver(ADDRESS, ZONES) as address:
        yield address


@pytest.fixture
def door(dns: str) -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        made.environ["DNSCACHEIP"] = dns
        yield made


@pytest.mark.parametrize(
    ("lines", "environ", "reply"),
    [
        pytest.param("list.test", {}, b"451 listed: see list.test\r\n", id="a listed client has to come again"),
        pytest.param("-list.test", {}, b"553 listed: see list.test\r\n", id="or never"),
        pytest.param("list.test:-no, %IP%", {}, b"553 no, 192.0.2.7\r\n", id="with a text of the admin's"),
        pytest.param("+friends.test\nlist.test", {}, b"250 ok\r\n", id="a friend is not asked about further"),
        pytest.param("=list.test", {}, b"250 ok\r\n", id="a list that only logs"),
        pytest.param("list.test=127.0.0.2", {}, b"250 ok\r\n", id="an answer that does not count"),
        pytest.param("list.test=127.0.0.[2..4]", {}, b"451 listed: see list.test\r\n", id="and one that does"),
        pytest.param("-refusing.test\n-nowhere.test", {}, b"250 ok\r\n", id="lists that do not answer stop nobody"),
        pytest.param(
            "-refusing.test",
            {"DNSBLFAILCLOSED": "1"},
            b"451 temporary DNS list lookup error (#4.7.1)\r\n",
            id="unless the admin wants it so",
        ),
        pytest.param("list.test", {"RELAYCLIENT": ""}, b"250 ok\r\n", id="nobody asks about relay clients"),
        pytest.param("list.test", {"DNSBLSKIP": ""}, b"250 ok\r\n", id="nor where a rule says so"),
    ],
)
def test_what_a_client_hears(door: Door, lines: str, environ: dict[str, str], reply: bytes) -> None:
    door.control(dnsbllist=lines)
    door.environ |= environ
    client = Client(door)
    client.reply()
    assert client.say(MAIL) == b"250 ok\r\n"
    assert client.say(rcpts("bob")[0]) == reply
    _, _, log = leave(client)
    assert ("dnsbllist: refusing.test does not answer: Error:_open_resolver" in log) is ("refusing" in lines)
    assert ("dnsbllist: list.test lists ip=192.0.2.7" in log) is lines.startswith("=")


def test_another_file_by_a_variable(door: Door) -> None:
    door.control(strict="-list.test")
    door.environ["DNSBLLIST"] = "control/strict"
    assert replies(door, MAIL, *rcpts("bob"))[1] == b"553"


def test_a_line_and_its_parts() -> None:
    assert parse_zone(b"-zen.test=127.0.0.[2..11]:no: %IP%") == Zone(b"zen.test", b"-", b"127.0.0.[2..11]", b"no: %IP%")
    assert parse_zone(b"+ok.test:-x") == Zone(b"ok.test", b"+", b"", b"x")
