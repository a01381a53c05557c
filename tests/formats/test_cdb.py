"""Constant databases (contract: users section 3)."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyqmail.formats.cdb import Cdb, CdbCorrupt, replace_cdb, write_cdb


def get(path: Path, key: bytes) -> bytes | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return Cdb(fd).get(key)
    finally:
        os.close(fd)


@pytest.mark.contract("users 3.1", "users 3.2", "users 3.3", "users 3.4", "users 8.12")
def test_layout_is_the_common_one(tmp_path: Path) -> None:
    write_cdb(str(tmp_path / "cdb"), [(b"one", b"Hello")])
    hashed = 5381
    for byte in b"one":
        hashed = (hashed * 33 ^ byte) & 0xFFFFFFFF
    data = (tmp_path / "cdb").read_bytes()
    assert data[2048:2064] == struct.pack("<LL", 3, 5) + b"oneHello"
    position, slots = struct.unpack_from("<LL", data, 8 * (hashed % 256))
    assert slots == 2
    assert struct.unpack_from("<LL", data, position + 8 * ((hashed >> 8) % 2)) == (hashed, 2048)


@pytest.mark.contract("users 8.4")
def test_the_first_of_equal_keys_is_found(tmp_path: Path) -> None:
    write_cdb(str(tmp_path / "cdb"), [(b"k", b"1"), (b"k", b"2"), (b"", b"")])
    assert get(tmp_path / "cdb", b"k") == b"1"
    assert get(tmp_path / "cdb", b"") == b""
    assert get(tmp_path / "cdb", b"nosuch") is None


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path: Path) -> None:
    write_cdb(str(tmp_path / "cdb"), [(b"k", b"old")])
    fd = os.open(tmp_path / "cdb", os.O_RDONLY)
    write_cdb(str(tmp_path / "cdb.tmp"), [(b"k", b"new")])
    replace_cdb(str(tmp_path / "cdb.tmp"), str(tmp_path / "cdb"))
    assert Cdb(fd).get(b"k") == b"old"
    assert get(tmp_path / "cdb", b"k") == b"new"
    os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 2047])
def test_a_short_file_is_corrupt(tmp_path: Path, size: int) -> None:
    (tmp_path / "cdb").write_bytes(bytes(size))
    with pytest.raises(CdbCorrupt):
        get(tmp_path / "cdb", b"k")


def test_a_table_without_an_empty_slot_does_not_loop(tmp_path: Path) -> None:
    table = struct.pack("<LL", 1, 2048) * 4
    (tmp_path / "cdb").write_bytes(struct.pack("<LL", 2048, 4) * 256 + table)
    with pytest.raises(CdbCorrupt):
        get(tmp_path / "cdb", b"k")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_damage_raises_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    write_cdb(str(tmp_path / "cdb"), [(b"!%d" % n, b"x" * n) for n in range(40)])
    raw = bytearray((tmp_path / "cdb").read_bytes())
    for _ in range(30):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "cdb").write_bytes(raw[: data.draw(st.integers(2048, len(raw)))])
    for n in range(40):
        try:
            get(tmp_path / "cdb", b"!%d" % n)
        except CdbCorrupt:
            continue
