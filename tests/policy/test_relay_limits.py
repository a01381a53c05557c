"""control/relaylimits as a value: whom a line is for, what it counts, and which lines are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.policy.relay_limits import Limit, Line, RelayLimits, parse_line

DAY = 86400
TEXT = b"""# comment
Ann@Example.test:100/3600,1000,messages=50/3600,550
free@example.test:
zero@example.test:0
192.0.2.0/24:10
192.0.2.16/28:20
198.51.100.:30
192.0.2.7:40
2001:db8:1::/48:50
:5/60
"""


def limits(key: bytes, *found: tuple[bytes, int, int], reply: int = 451) -> Line:
    return Line(key, tuple(Limit(*each) for each in found), reply)


def recipients(key: bytes, most: int, seconds: int = DAY) -> Line:
    return limits(key, (b"recipients", most, seconds))


@pytest.mark.parametrize(
    ("user", "line"),
    [
        (b"ann@example.TEST", limits(b"ann@example.test", (b"recipients", 100, 3600), (b"recipients", 1000, DAY),
                                     (b"messages", 50, 3600), reply=550)),
        (b"free@example.test", None),
        (b"zero@example.test", None),
        (b"bob@example.test", recipients(b"bob@example.test", 5, 60)),
    ],
    ids=["of its own, in any case", "without limits", "with 0", "of all others"],
)  # fmt: skip
def test_a_user_has_a_line_of_its_own_or_is_counted_apart_by_that_of_all(user: bytes, line: Line | None) -> None:
    assert RelayLimits(TEXT).of_user(user) == line


@pytest.mark.parametrize(
    ("ip", "line"),
    [
        (b"192.0.2.7", recipients(b"192.0.2.7", 40)),
        (b"192.0.2.17", recipients(b"192.0.2.16/28", 20)),
        (b"::ffff:192.0.2.17", recipients(b"192.0.2.16/28", 20)),
        (b"192.0.2.200", recipients(b"192.0.2.0/24", 10)),
        (b"198.51.100.3", recipients(b"198.51.100.", 30)),
        (b"2001:db8:1::9", recipients(b"2001:db8:1::/48", 50)),
        (b"2001:db8:2:3::9", recipients(b"2001:db8:2:3::/64", 5, 60)),
        (b"203.0.113.1", recipients(b"203.0.113.1", 5, 60)),
        (b"unknown", recipients(b"unknown", 5, 60)),
    ],
)
def test_an_address_has_the_line_of_the_smallest_network(ip: bytes, line: Line) -> None:
    assert RelayLimits(TEXT).of_address(ip) == line


@pytest.mark.parametrize(
    "text",
    [b"ann", b"ann:x", b"ann:10/0", b"ann:10/99999999", b"ann:1/2/3", b"ann:bytes=5", b"ann:1,2,3,4,5", b"ann:-1"],
)
def test_a_line_that_is_none_is_named_and_the_others_count(text: bytes) -> None:
    found = RelayLimits(b":7\n" + text + b"\nbob:8\n")
    assert [(number, line) for number, line, _ in found.complaints] == [(2, text)]
    assert found.of_user(b"ann") == recipients(b"ann", 7) and found.of_user(b"bob") == recipients(b"bob", 8)


def test_a_file_without_limits_is_off() -> None:
    assert not RelayLimits(b"# none\nann:\n:0\n")


@given(st.binary(max_size=60))
def test_no_line_raises(text: bytes) -> None:
    parse_line(text)
    RelayLimits(text).of_address(b"192.0.2.1")
