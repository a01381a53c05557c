"""Dates of header fields."""

import time
from collections.abc import Iterator

import pytest

from pyqmail.formats.date822 import format_date, format_local_date, format_stamp


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """The process in the zone that the test names."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.contract("inject 1.18", "inject 1.19")
@pytest.mark.parametrize(
    ("seconds", "date", "stamp"),
    [
        (812090813, b"26 Sep 1995 04:46:53 -0000", b"19950926044653"),
        (0, b"1 Jan 1970 00:00:00 -0000", b"19700101000000"),
        (951782400, b"29 Feb 2000 00:00:00 -0000", b"20000229000000"),
        (4102444799, b"31 Dec 2099 23:59:59 -0000", b"20991231235959"),
    ],
)
def test_utc(seconds: int, date: bytes, stamp: bytes) -> None:
    assert (format_date(seconds), format_stamp(seconds)) == (date, stamp)


@pytest.mark.contract("inject 4.8")
@pytest.mark.parametrize(
    ("zone", "date"),
    [
        ("UTC0", b"1 Jan 1970 00:00:00 +0000"),
        ("XXX-5:30", b"1 Jan 1970 05:30:00 +0530"),
        ("XXX3:30", b"31 Dec 1969 20:30:00 -0330"),
    ],
    indirect=["zone"],
)
def test_local_zone(zone: None, date: bytes) -> None:
    assert format_local_date(0) == date
