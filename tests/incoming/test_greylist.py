"""control/greylist at the door, with qmail-stated as a process."""

import os
from collections.abc import Iterator

import pytest

from pyqmail.incoming.check import Rules
from pyqmail.incoming.client import Client
from pyqmail.incoming.greylist import Greylist
from pyqmail.incoming.letter import Letter
from tests.incoming.test_relay_limits import stated
from tests.programs.door import Door, door_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the service becomes another user")


@pytest.fixture
def door() -> Iterator[Door]:
    with door_of("qmail-smtpd") as made:
        (made.base / "run").mkdir()
        made.base.chmod(0o755)
        made.control(greylist="1", **{"greylist.white": "198.51.100.\n@partner.test"})
        with stated(made.base):
            yield made


def let_in(door: Door, ip: bytes, sender: bytes = b"a@far.test", *, relay: bytes | None = None, wait: str = "") -> bool:
    """Whether a stranger's recipient is let in at once."""
    rules = Rules(str(door.base), {b"GREYLIST": wait.encode()} if wait else {})
    check = Greylist(rules)
    client = Client(ip, b"unknown", None, relay=relay)
    found = check.recipient(client, Letter(0, sender), b"x@here.test") if check.active else None
    rules.close()
    return found is None


def test_a_stranger_comes_again_and_is_let_in(door: Door) -> None:
    commands = b"HELO c\r\nMAIL FROM:<a@far.test>\r\nRCPT TO:<x@here.test>\r\nQUIT\r\n"
    said = door.talk(commands)[0].splitlines()
    assert said[3] == b"451 you are new here, please come again in 1 seconds (#4.7.1)"
    assert b" greylist=1" in door.log.read_bytes()
    while said[3][:3] == b"451":  # a session takes some tenths of a second
        said = door.talk(commands)[0].splitlines()
    assert said[3][:3] == b"250"


def test_a_network_counts_as_one_and_relays_and_exceptions_need_not_wait(door: Door) -> None:
    assert not let_in(door, b"192.0.2.7", wait="300") and not let_in(door, b"203.0.113.7", wait="300")
    assert let_in(door, b"192.0.2.8", wait="0"), "a rule switches it off"
    assert let_in(door, b"192.0.2.9", relay=b"", wait="300")
    assert let_in(door, b"198.51.100.3", wait="300") and let_in(door, b"192.0.2.9", b"x@partner.test", wait="300")
    assert not let_in(door, b"192.0.2.9", b"b@far.test")
    while not let_in(door, b"192.0.2.200", b"B@far.test"):
        pass
