"""What a queue is called: made once, whoever asks first."""

import uuid
from pathlib import Path

import pytest

from pyqmail.shadow.identity import read_queue_id
from pyqmail.system import files


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "id")
    first = read_queue_id(path)
    assert str(uuid.UUID(first)) == first and read_queue_id(path) == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["id"]


def test_two_that_find_none_at_the_same_time_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, others = str(tmp_path / "id"), files.place_file, []

    def later(temporary: str, target: str, data: bytes) -> None:
        monkeypatch.setattr(files, "place_file", real)
        others.append(read_queue_id(path))  # the other one has found none either, and is quicker
        real(temporary, target, data)

    monkeypatch.setattr(files, "place_file", later)
    assert [read_queue_id(path)] == others
    assert [entry.name for entry in tmp_path.iterdir()] == ["id"]


def test_one_that_is_none_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("what is this?\n")
    with pytest.raises(ValueError):
        read_queue_id(str(tmp_path / "id"))
    assert (tmp_path / "id").read_text() == "what is this?\n"
