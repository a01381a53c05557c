"""What is put in the place of a file, and what is not followed on the way."""

import os
import stat
from pathlib import Path

import pytest

from pyqmail.system.files import place_file, replace_file


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    replace_file(str(tmp_path / "new"), str(tmp_path / "file"), b"data", mode=0o640)
    assert (tmp_path / "file").read_bytes() == b"data" and os.listdir(tmp_path) == ["file"]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", ["link", "fifo", "file"])
def test_what_lies_in_the_way_is_removed_and_not_written_to(tmp_path: Path, kind: str) -> None:
    """Its directory may be another user's, who would have root write where a link of his points to."""
    victim, temporary = tmp_path / "victim", tmp_path / "new"
    victim.write_bytes(b"precious")
    if kind == "link":
        temporary.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(temporary)
    else:
        os.link(victim, temporary)
    replace_file(str(temporary), str(tmp_path / "file"), b"data")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"data" and not (tmp_path / "file").is_symlink()


def test_a_directory_in_the_way_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "new").mkdir()
    with pytest.raises(OSError):
        replace_file(str(tmp_path / "new"), str(tmp_path / "file"), b"data")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_file_is_placed_once_and_what_is_there_stays(tmp_path: Path) -> None:
    place_file(str(tmp_path / "new"), str(tmp_path / "file"), b"data", mode=0o640)
    assert (tmp_path / "file").read_bytes() == b"data" and os.listdir(tmp_path) == ["file"]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    with pytest.raises(FileExistsError):
        place_file(str(tmp_path / "new"), str(tmp_path / "file"), b"other")
    assert (tmp_path / "file").read_bytes() == b"data" and os.listdir(tmp_path) == ["file"]
