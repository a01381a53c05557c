"""The Received lines as values (contracts queue and smtpd have them in processes)."""

import pytest

from pyqmail.formats.received import format_network_received, format_received, how_invoked
from pyqmail.policy.accounts import Accounts

WHEN = 812090813


def accounts(*, single: bool) -> Accounts:
    """Numbers for alias, qmaild, qmaill, root, qmailp, qmailq, qmailr and qmails."""
    return Accounts([9] * 8 if single else [1, 2, 3, 0, 4, 5, 6, 8], [20, 21], b"alias")


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        (1, b"by alias"),
        (2, b"from network"),
        (8, b"for bounce"),
        (5, b"by uid 5"),
        (0, b"by uid 0"),
        (1000, b"by uid 1000"),
    ],
)
def test_who_invoked_the_queue(uid: int, words: bytes) -> None:
    assert how_invoked(uid, accounts(single=False)) == words


def test_in_a_single_user_tree_the_number_is_all_that_can_be_said() -> None:
    assert how_invoked(9, accounts(single=True)) == b"by uid 9"


def test_the_line_of_the_queue() -> None:
    line = b"Received: (qmail 42 invoked by alias); 26 Sep 1995 04:46:53 -0000\n"
    assert format_received(42, b"by alias", WHEN) == line


@pytest.mark.parametrize(
    ("environ", "helo", "line"),
    [
        ({}, None, b"from unknown (unknown)\n  by unknown"),
        ({b"TCPREMOTEHOST": b"h.x", b"TCPREMOTEIP": b"1.2.3.4"}, b"H.X", b"from h.x (1.2.3.4)\n  by unknown"),
        ({b"TCPREMOTEHOST": b"h.x"}, b"other", b"from h.x (HELO other) (unknown)\n  by unknown"),
        ({b"TCPREMOTEINFO": b"ann", b"TCPLOCALHOST": b"mx"}, None, b"from unknown (ann@unknown)\n  by mx"),
        ({b"TCPLOCALIP": b"5.6.7.8"}, b"a\r\nb()\xe9", b"from unknown (HELO a??b???) (unknown)\n  by 5.6.7.8"),
        ({b"TCPREMOTEIP": b"2001:db8::1"}, None, b"from unknown (2001:db8::1)\n  by unknown"),
    ],
)
def test_the_lines_of_the_network(environ: dict[bytes, bytes], helo: bytes | None, line: bytes) -> None:
    whole = b"Received: " + line + b" with SMTP; 26 Sep 1995 04:46:53 -0000\n"
    assert format_network_received(b"SMTP", environ, helo, WHEN) == whole
