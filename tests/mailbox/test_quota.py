"""Maildir++ quota: maildirsize, what it counts, and when it is counted anew."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.control import Control
from pyqmail.failure import PermanentFailure
from pyqmail.mailbox.quota import FILE_MAX, FRESH_S, Limit, MaildirQuota, parse_limit, read_limit


@pytest.fixture
def box(tmp_path: Path) -> Path:
    for name in ("tmp", "new", "cur", ".Sent/cur", ".Sent/new", ".Trash/cur"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def quota(box: Path, usual: str = "1000S,5C") -> MaildirQuota:
    limit = parse_limit(usual.encode())
    assert limit is not None
    return MaildirQuota(os.fsencode(box) + b"/", limit)


def add(box: Path, name: str, size: int) -> None:
    (box / name).write_bytes(b"x" * size)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1000S,5C", Limit(1000, 5)), (b"1000", Limit(1000)), (b"5C\n", Limit(0, 5)), (b"0S", Limit()),
        (b"10M", None), (b"", None), (b"-1S", None),
    ],
)  # fmt: skip
def test_limits(text: bytes, expected: Limit | None) -> None:
    assert parse_limit(text) == expected


@given(st.binary(max_size=50))
def test_any_text_is_a_limit_or_none(text: bytes) -> None:
    found = parse_limit(text)
    assert found is None or parse_limit(found.format()) in (found, None)


def test_what_is_there_is_counted_at_first(box: Path) -> None:
    add(box, "new/1.a,S=400", 1)  # the name says the size
    add(box, "cur/2.a:2,S", 100)
    add(box, ".Sent/cur/3.a:2,S", 200)
    add(box, "cur/4.a:2,ST", 5000)  # marked as deleted
    add(box, ".Trash/cur/5.a", 5000)
    quota(box).make_room(300)
    assert (box / "maildirsize").read_bytes() == b"1000S,5C\n700 3\n"
    with pytest.raises(PermanentFailure):
        quota(box).make_room(301)


def test_deliveries_are_added_and_the_sum_counts(box: Path) -> None:
    made = quota(box)
    for _ in range(5):
        made.make_room(100)
        made.add(100)
        add(box, f"new/{time.monotonic_ns()},S=100", 1)
    assert (box / "maildirsize").read_bytes() == b"1000S,5C\n0 0\n" + b"100 1\n" * 5
    with pytest.raises(PermanentFailure):
        made.make_room(1)  # a sixth message


def test_a_maildirs_own_limit_counts_and_none_at_all_is_no_limit(box: Path) -> None:
    (box / "maildirsize").write_bytes(b"50S\n0 0\n")
    with pytest.raises(PermanentFailure):
        quota(box, "0S").make_room(51)
    (box / "maildirsize").unlink()
    quota(box, "0S").make_room(10**12)
    assert not (box / "maildirsize").exists()


def test_room_that_others_have_made_is_found_unless_just_looked_for(box: Path) -> None:
    (box / "maildirsize").write_bytes(b"1000S\n900 1\n")
    with pytest.raises(PermanentFailure):
        quota(box).make_room(200)  # counted a moment ago
    os.utime(box / "maildirsize", (0, time.time() - FRESH_S - 1))
    quota(box).make_room(200)
    assert (box / "maildirsize").read_bytes() == b"1000S\n0 0\n"
    (box / "maildirsize").write_bytes(b"1000S\n800 1\n100 1\n")
    quota(box).make_room(200)  # lines of later deliveries: nobody has counted since


@pytest.mark.parametrize("lines", [b"x y\n", b"-5 -1\n", b"1 1\n" * FILE_MAX, b"\xff\n"])
def test_a_file_that_is_damaged_or_long_is_made_anew(box: Path, lines: bytes) -> None:
    (box / "maildirsize").write_bytes(b"1000S\n" + lines)
    add(box, "new/1.a", 10)
    quota(box).make_room(10)
    assert (box / "maildirsize").read_bytes() == b"1000S\n10 1\n"


def test_a_link_is_not_followed(box: Path) -> None:
    (box / "maildirsize").symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        quota(box).make_room(1)


def test_without_the_control_file_nothing_is_counted(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    assert read_limit(Control(str(tmp_path))) is None
    (tmp_path / "control" / "maildirquota").write_text("\n")
    assert read_limit(Control(str(tmp_path))) == Limit()
