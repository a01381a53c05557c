"""The table of hosts that timed out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.spool import tcpto
from pyqmail.spool.tcpto import Entry, Verdict, after_timeout, block_seconds, find, judge, parse_table, record_key

HOST = bytes((192, 0, 2, 1))
NOW = 1_700_000_000


def table_of(*entries: Entry) -> bytes:
    records = [e.key + bytes((e.count,)) + b"abc" + e.when.to_bytes(4, "little") + b"wxyz" for e in entries]
    return b"".join(records).ljust(1024, b"\0")


@pytest.mark.contract("remote 6")
@pytest.mark.parametrize(
    ("entries", "verdict"),
    [
        pytest.param([], Verdict.UNKNOWN, id="an empty table blocks nobody"),
        pytest.param([Entry(HOST, 1, NOW)], Verdict.KNOWN, id="a single timeout never blocks"),
        pytest.param([Entry(HOST, 2, NOW - 3839)], Verdict.BLOCKED, id="two block for about an hour"),
        pytest.param([Entry(HOST, 2, NOW - 3840)], Verdict.KNOWN, id="and then no longer"),
        pytest.param([Entry(HOST, 0, NOW), Entry(HOST, 9, NOW)], Verdict.KNOWN, id="only the first record counts"),
    ],
)
def test_check(entries: list[Entry], verdict: Verdict) -> None:
    assert judge(table_of(*entries), HOST, now=NOW, pid=32) is verdict


@pytest.mark.contract("remote 6")
def test_block_time_is_spread_by_process_id() -> None:
    assert (block_seconds(64), block_seconds(31)) == (3840, 5824)


@pytest.mark.contract("remote 6")
@pytest.mark.parametrize(
    ("entries", "change"),
    [
        pytest.param([], (0, Entry(HOST, 1, NOW)), id="absent: the first free record"),
        pytest.param([Entry(HOST, 1, NOW - 119)], None, id="timeouts closer than 120 s count once"),
        pytest.param([Entry(HOST, 1, NOW - 120)], (0, Entry(HOST, 2, NOW)), id="later ones add up"),
        pytest.param([Entry(HOST, 0, NOW)], (0, Entry(HOST, 1, NOW)), id="a cleared record starts again"),
        pytest.param([Entry(HOST, 10, 5)], (0, Entry(HOST, 10, NOW)), id="up to 10"),
        pytest.param(
            [Entry(b"aaaa", 10, 9000 if n else 9001) for n in range(20)]
            + [Entry(b"bbbb", 1, 9000)]
            + [Entry(b"cccc", 2, 9000)] * 43,
            (320, Entry(HOST, 1, NOW)),
            id="a full table gives up its oldest, a count being worth 1024 s",
        ),
    ],
)
def test_timeout(entries: list[Entry], change: tuple[int, Entry] | None) -> None:
    assert after_timeout(table_of(*entries), HOST, NOW) == change


@pytest.mark.contract("remote 6")
def test_answer_clears_the_count_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "tcpto"
    path.write_bytes(table_of(Entry(b"\1\1\1\1", 3, 7), Entry(HOST, 3, NOW)))
    tcpto.note_answer(str(path), HOST)
    assert path.read_bytes() == table_of(Entry(b"\1\1\1\1", 3, 7), Entry(HOST, 0, NOW))


def test_timeout_is_written_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tcpto"
    path.write_bytes(bytes(1024))
    tcpto.note_timeout(str(path), HOST)
    assert path.read_bytes()[:5] == HOST + b"\1" and len(path.read_bytes()) == 1024


@pytest.mark.contract("remote 6")
def test_without_a_table_nobody_is_blocked(tmp_path: Path) -> None:
    path = str(tmp_path / "tcpto")
    tcpto.note_timeout(path, HOST)
    assert tcpto.check(path, HOST) is Verdict.UNKNOWN


def test_ipv6_is_known_by_an_address_no_ipv4_host_has() -> None:
    key = record_key(bytes(15) + b"\1")
    assert len(key) == 4 and key[0] >= 240


@given(st.binary(max_size=100), st.sampled_from([b"aaaa", b"\0\0\0\0", HOST]))
def test_record_is_found_at_its_first_place_only(table: bytes, key: bytes) -> None:
    table = b"aaaaaaaa" + table + key * 9
    first = next((found for found in parse_table(table) if found[1].key == key), None)
    assert find(table, key) == first


@given(st.binary(max_size=1100), st.binary(min_size=4, max_size=4))
def test_any_table_can_be_read(table: bytes, key: bytes) -> None:
    judge(table, key, now=NOW, pid=1)
    change = after_timeout(table, key, NOW)
    assert change is None or (0 <= change[0] <= 1008 and change[0] + 16 <= len(table))
