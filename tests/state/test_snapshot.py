"""The file that qmail-stated leaves: the next process goes on, and a torn one is not believed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.state.clock import Clock
from pyqmail.state.snapshot import load, save
from pyqmail.state.table import Damaged, Table


def tables(entries: dict[bytes, bytes]) -> list[Table]:
    made = [Table(1000), Table(1000)]
    for at, (key, value) in enumerate(entries.items()):
        made[at % 2].put(key, value, 4000000000)
    return made


def shown(found: list[Table]) -> list[dict[bytes, bytes]]:
    return [dict(table.items(0)) for table in found]


@given(entries=st.dictionaries(st.binary(max_size=512), st.binary(max_size=255), max_size=20))
def test_what_was_saved_is_loaded(entries: dict[bytes, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("state") / "state")
    save(path, Clock(), tables(entries))
    found = tables({})
    load(path, Clock(), found)
    assert shown(found) == shown(tables(entries))


def test_no_file_is_a_fresh_start(tmp_path: Path) -> None:
    load(str(tmp_path / "state"), Clock(), tables({}))


def test_a_file_that_is_cut_or_changed_anywhere_is_damaged_and_nothing_of_it_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save(str(path), Clock(), tables({b"ann": b"1", b"bob": b"2"}))
    whole = path.read_bytes()
    for at in range(len(whole)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(data)
            found = tables({})
            with pytest.raises(Damaged):
                load(str(path), Clock(), found)
            assert shown(found) == [{}, {}]
