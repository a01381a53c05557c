"""The table of hosts that timed out."""

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.remote import tcpto
from pyqmail.remote.tcpto import Entry, Verdict, after_timeout, block_seconds, find, judge, parse_table, record_key
from tests.loopback import free_port
from tests.programs.spawn_bench import Home, Spawn
from tests.scripted_peers import remote_home, run_program

HOST = bytes((192, 0, 2, 1))
NOW = 1_700_000_000
KNOWN = pytest.mark.contract("queue 10.4")
NEW = pytest.mark.contract("queue 10.5")


def table_of(*entries: Entry) -> bytes:
    records = [e.key + bytes((e.count,)) + b"abc" + e.when.to_bytes(4, "little") + b"wxyz" for e in entries]
    return b"".join(records).ljust(1024, b"\0")


@pytest.mark.contract("remote 6.6", "queue 10.2")
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


@pytest.mark.contract("remote 6.6", "queue 10.2")
def test_block_time_is_spread_by_process_id() -> None:
    assert (block_seconds(64), block_seconds(31)) == (3840, 5824)


@pytest.mark.contract("remote 6.2", "remote 6.8")
@pytest.mark.parametrize(
    ("entries", "change"),
    [
        pytest.param([], (0, Entry(HOST, 1, NOW)), id="absent: the first free record", marks=NEW),
        pytest.param([Entry(HOST, 1, NOW - 119)], None, id="timeouts closer than 120 s count once", marks=KNOWN),
        pytest.param([Entry(HOST, 1, NOW - 120)], (0, Entry(HOST, 2, NOW)), id="later ones add up", marks=KNOWN),
        pytest.param([Entry(HOST, 0, NOW)], (0, Entry(HOST, 1, NOW)), id="a cleared record starts again", marks=KNOWN),
        pytest.param([Entry(HOST, 10, 5)], (0, Entry(HOST, 10, NOW)), id="up to 10", marks=KNOWN),
        pytest.param(
            [Entry(b"aaaa", 10, 9000 if n else 9001) for n in range(20)]
            + [Entry(b"bbbb", 1, 9000)]
            + [Entry(b"cccc", 2, 9000)] * 43,
            (320, Entry(HOST, 1, NOW)),
            id="a full table gives up its oldest, a count being worth 1024 s",
            marks=NEW,
        ),
    ],
)
def test_timeout(entries: list[Entry], change: tuple[int, Entry] | None) -> None:
    assert after_timeout(table_of(*entries), HOST, NOW) == change


@pytest.mark.contract("remote 6.1", "remote 6.3", "remote 6.4", "remote 6.5", "remote 6.7", "queue 10.3")
def test_answer_clears_the_count_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "tcpto"
    path.write_bytes(table_of(Entry(b"\1\1\1\1", 3, 7), Entry(HOST, 3, NOW)))
    tcpto.note_answer(str(path), HOST)
    assert path.read_bytes() == table_of(Entry(b"\1\1\1\1", 3, 7), Entry(HOST, 0, NOW))


@pytest.mark.contract("queue 10.3")
def test_answer_of_an_unknown_host_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tcpto"
    before = table_of(Entry(b"\1\1\1\1", 3, 7))
    path.write_bytes(before)
    tcpto.note_answer(str(path), HOST)
    assert path.read_bytes() == before


@pytest.mark.contract("queue 10.1", "queue 12.7")
def test_the_table_is_held_by_flock(tmp_path: Path) -> None:
    path = tmp_path / "tcpto"
    path.write_bytes(bytes(1024))
    with path.open("rb") as other:
        with tcpto.LockedTable(str(path)), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.contract("queue 10.1")
def test_a_table_that_cannot_be_locked_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tcpto"
    path.write_bytes(table_of(Entry(HOST, 9, int(time.time()))))
    assert tcpto.check(str(path), HOST) is Verdict.BLOCKED

    def no_locks(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert tcpto.check(str(path), HOST) is Verdict.UNKNOWN


@pytest.mark.contract("queue 10.1", "queue 10.5")
def test_an_empty_file_turns_the_table_off(tmp_path: Path) -> None:
    path = tmp_path / "tcpto"
    path.write_bytes(b"")
    tcpto.note_timeout(str(path), HOST)
    assert path.read_bytes() == b"" and tcpto.check(str(path), HOST) is Verdict.UNKNOWN


@pytest.mark.contract("queue 10.6", "remote 6")
@pytest.mark.skipif(os.getuid() != 0, reason="qmail-rspawn's test home needs files of another owner")
def test_qmail_rspawn_clears_the_table_at_its_start_and_waits_for_no_lock() -> None:
    home = Home()
    path = home.path / "queue/lock/tcpto"
    path.write_bytes(table_of(Entry(HOST, 9, NOW)) + b"rest")
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        spawn = Spawn(home, "qmail-rspawn")
        assert path.read_bytes() == bytes(1024) + b"rest"
        spawn.end()
    home.close()


def test_timeout_is_written_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tcpto"
    path.write_bytes(bytes(1024))
    tcpto.note_timeout(str(path), HOST)
    assert path.read_bytes()[:5] == HOST + b"\1" and len(path.read_bytes()) == 1024


@pytest.mark.contract("remote 6", "queue 10.1")
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


def test_a_reader_sees_every_change_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "tcpto"
    path.write_bytes(bytes(1024))
    os.utime(path, (NOW, NOW))  # old enough to be remembered
    reader = tcpto.Reader()
    assert reader.check(str(path), HOST) is reader.check(str(path), HOST) is Verdict.UNKNOWN
    path.write_bytes(table_of(Entry(HOST, 9, int(time.time()))))
    assert reader.check(str(path), HOST) is Verdict.BLOCKED
    path.write_bytes(bytes(1024))
    assert reader.check(str(path), HOST) is Verdict.UNKNOWN
    path.unlink()
    assert reader.check(str(path), HOST) is Verdict.UNKNOWN


@pytest.mark.contract("remote 6.7")
def test_a_refusal_is_an_answer(tmp_path: Path) -> None:
    home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{free_port()}")
    table = home / "queue" / "lock" / "tcpto"
    table.write_bytes(table_of(Entry(bytes((127, 0, 0, 1)), 1, NOW)))
    assert b"(#4.4.1)" in run_program("pyqmail.programs.qmail_remote", [b"x", b"", b"r@x"], home)[1]
    assert table.read_bytes() == table_of(Entry(bytes((127, 0, 0, 1)), 0, NOW))
