"""Exception lists as values: clients by address, network and name, senders and recipients."""

import pytest

from pyqmail.policy.exceptions import Exceptions

LIST = Exceptions(b"""# who need not wait
192.0.2.1
198.51.100.0/24
203.0.113.
2001:db8::/32
mail.Example.org
.big.example
Boss@here.test
@partner.test
not/a/network
""")


@pytest.mark.parametrize(
    ("ip", "host", "listed"),
    [
        (b"192.0.2.1", b"unknown", True),
        (b"192.0.2.2", b"unknown", False),
        (b"198.51.100.77", b"unknown", True),
        (b"::ffff:198.51.100.77", b"unknown", True),
        (b"203.0.113.9", b"unknown", True),
        (b"2001:db8:5::1", b"unknown", True),
        (b"192.0.2.9", b"MAIL.example.org", True),
        (b"192.0.2.9", b"a.mail.example.org", False),
        (b"192.0.2.9", b"out1.big.example", True),
        (b"192.0.2.9", b"big.example", False),
        (b"unknown", b"unknown", False),
    ],
)
def test_clients(ip: bytes, host: bytes, listed: bool) -> None:
    assert LIST.has_client(ip, host) is listed
    assert not Exceptions(b"").has_client(ip, host)


@pytest.mark.parametrize(
    ("address", "listed"),
    [(b"boss@HERE.test", True), (b"x@Partner.test", True), (b"x@a.partner.test", False), (b"", False), (b"x", False)],
)
def test_senders_and_recipients(address: bytes, listed: bool) -> None:
    assert LIST.has_mail_address(address) is listed
