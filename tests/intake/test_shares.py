"""Who counts as one."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pyqmail.intake.shares import Shares, parse_ranges, parse_uid

SUBUID = b"""joe:100000:65536
1001:165536:65536
# a comment
ann:x:y
gone:300000:10
"""
PASSWD = b"root:x:0:0::/:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n"


def shares(folder: Path) -> Shares:
    (folder / "subuid").write_bytes(SUBUID)
    (folder / "passwd").write_bytes(PASSWD)
    return Shares(str(folder / "subuid"), str(folder / "passwd"))


def test_all_subordinate_uids_count_with_their_owner(tmp_path: Path) -> None:
    found = shares(tmp_path)
    assert {found.of(uid) for uid in (1000, 100000, 123456, 165535)} == {1000}
    assert {found.of(uid) for uid in (1001, 165536, 231071)} == {1001}


def test_everybody_else_counts_alone_and_an_unknown_owner_by_his_range(tmp_path: Path) -> None:
    found = shares(tmp_path)
    assert [found.of(uid) for uid in (0, 99999, 231072, 65534)] == [0, 99999, 231072, 65534]
    assert {found.of(uid) for uid in (300000, 300009)} == {300000}


def test_a_changed_file_is_read_again_and_a_missing_one_has_no_ranges(tmp_path: Path) -> None:
    found = shares(tmp_path)
    assert found.of(150000) == 1000
    (tmp_path / "subuid").write_bytes(b"joe:400000:1\n")
    assert (found.of(150000), found.of(400000)) == (150000, 1000)
    os.unlink(tmp_path / "subuid")
    assert found.of(400000) == 400000


@given(st.binary(max_size=200))
def test_no_file_makes_trouble(data: bytes) -> None:
    assert all(first <= end for first, end, _ in parse_ranges(data))
    parse_uid(data, b"joe")
