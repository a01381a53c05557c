"""Limits by network: as values, and in tcpserver with workers and with children."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.tcp import crowd as crowds
from pyqmail.tcp.crowd import MINUTES, Crowd
from tests.programs.tcp_servers import BIN, Servers

TOO_MANY = "dropping connection, too many from 127.0.0.1"


class Clock:
    """Stands for time.monotonic."""

    def __init__(self) -> None:
        self.now = 600.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(crowds, "time", made)
    return made


def arrive(crowd: Crowd, pid: int, ip: str) -> bool:
    """A child for one connection."""
    crowd.find_place()
    crowd.placed(pid)
    return crowd.enter(ip)


def test_places_are_counted_by_network_and_given_back() -> None:
    crowd = Crowd(10, at_once=2, a_minute=0)
    assert [arrive(crowd, pid, "192.0.2.1") for pid in (1, 2)] == [False, False]
    assert not arrive(crowd, 3, "192.0.2.2")
    assert arrive(crowd, 4, "192.0.2.1")
    crowd.left(4)
    crowd.left(1)  # killed, perhaps
    assert not arrive(crowd, 5, "::ffff:192.0.2.1")
    assert [arrive(crowd, pid, f"2001:db8::{pid}") for pid in (6, 7, 8)] == [False, False, True]


def test_a_minute_is_counted_and_forgotten(clock: Clock) -> None:
    crowd = Crowd(10, at_once=0, a_minute=3)
    assert [crowd.enter("192.0.2.1") for _ in range(5)] == [False, False, False, True, True]
    assert not crowd.enter("192.0.2.2")
    clock.now += 60
    assert not crowd.enter("192.0.2.1")


def test_more_networks_than_are_known_are_served(clock: Clock) -> None:
    crowd = Crowd(10, at_once=0, a_minute=1)
    assert not any(crowd.enter(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(2 * MINUTES))


@pytest.fixture
def servers() -> Iterator[Servers]:
    made = Servers()
    yield made
    made.end()


@pytest.fixture
def home(tmp_path: Path) -> str:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/me").write_text("mx.test\n")
    return str(tmp_path)


@pytest.mark.parametrize("program", [["/bin/cat"], [str(BIN / "qmail-smtpd")]], ids=["children", "workers"])
def test_one_address_has_so_many_connections(servers: Servers, program: list[str], home: str) -> None:
    server = servers("-HRl0", "-m", "2", "--", *program, DIEMSG="421 too many (#4.7.0)", QMAIL_HOME=home)
    held = [server.connect() for _ in range(2)]
    for sock in held:
        sock.sendall(b"x\r\n")
        assert sock.recv(100)
    assert server.talk() == b"421 too many (#4.7.0)\r\n"
    assert TOO_MANY in server.line_with("too many from")
    assert server.talk(b"x\r\n", source="127.0.0.2") != b"421 too many (#4.7.0)\r\n"
    held.pop().close()
    served = b"421"
    while served.startswith(b"421 too"):  # until the end of the other has been seen
        served = server.talk(b"x\r\n")
    for sock in held:
        sock.close()


@pytest.mark.parametrize("program", [["/bin/cat"], [str(BIN / "qmail-smtpd")]], ids=["children", "workers"])
def test_one_address_has_so_many_connections_a_minute(servers: Servers, program: list[str], home: str) -> None:
    server = servers("-HRl0", "-M", "3", "--", *program, DIEMSG="421 no", QMAIL_HOME=home)
    said = [server.talk(b"x\r\n") for _ in range(8)]
    assert b"421 no\r\n" in said[3:] and b"421 no\r\n" not in said[:3]
    assert TOO_MANY in server.line_with("too many from")


def test_who_may_relay_is_not_limited(servers: Servers, tmp_path: Path) -> None:
    rules = f"{tmp_path}/rules"

    text = b'127.0.0.1:allow,RELAYCLIENT=""\n:allow\n'
    subprocess.run([BIN / "tcprules", rules, rules + ".tmp"], input=text, check=True)
    server = servers("-HRl0", "-x", rules, "-M", "1", "--", "/bin/cat", DIEMSG="421 no")
    assert [server.talk(b"x") for _ in range(3)] == [b"x"] * 3
    assert [server.talk(b"x", source="127.0.0.2") for _ in range(3)].count(b"421 no\r\n") >= 1
