"""Whether a file is still the one that was looked at, and what is made of it."""

import os
from pathlib import Path

import pytest

from pyqmail.system import stamp
from pyqmail.system.stamp import Glance, Seen, Watched


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stamp, "SETTLED_NS", -1)
    return tmp_path


def watched(made: list[str], **options: object) -> Watched[str]:
    def make(home: str) -> str:
        made.append(home)
        path = Path(home, "file")
        return path.read_text() if path.exists() else ""

    return Watched(make, lambda home: Seen((f"{home}/file",)), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["comes", "goes", "is replaced", "is another home's"])
def test_a_value_stands_until_its_file_is_another(home: Path, change: str) -> None:
    made: list[str] = []
    value = watched(made)
    if change != "comes":
        (home / "file").write_text("old")
    assert [value.get(str(home)) for _ in range(3)] == ["" if change == "comes" else "old"] * 3
    assert made == [str(home)]
    if change == "goes":
        (home / "file").unlink()
        assert value.get(str(home)) == ""
    elif change == "is another home's":
        assert value.get(str(home / "other")) == ""
    else:
        (home / "next").write_text("new")
        (home / "next").rename(home / "file")
        assert value.get(str(home)) == "new"


def test_what_has_only_just_changed_is_looked_at_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("old")
    now = max(os.stat(home / "file").st_mtime_ns, os.stat(home / "file").st_ctime_ns)
    monkeypatch.setattr(stamp, "SETTLED_NS", 100_000_000)
    monkeypatch.setattr("time.time_ns", lambda: now)
    made: list[str] = []
    value = watched(made)
    assert [value.get(str(home)), value.get(str(home))] == ["old", "old"] and len(made) == 2


def test_what_does_not_last_is_made_again(home: Path) -> None:
    made: list[str] = []
    value = watched(made, lasts=bool)
    assert [value.get(str(home)), value.get(str(home))] == ["", ""] and len(made) == 2


def test_after_an_error_nothing_is_known(home: Path) -> None:
    def make(_home: str) -> str:
        raise OSError

    value = Watched(make, lambda home: Seen((home,)))
    for _ in range(2):
        with pytest.raises(OSError):
            value.get(str(home))


def test_a_glance_sees_each_file_as_it_was_at_the_first_look(tmp_path: Path) -> None:
    there, missing = tmp_path / "there", tmp_path / "missing"
    there.write_bytes(b"x")
    glance = Glance()
    glance.begin()
    first = glance.stamp(str(there)), glance.stamp(str(missing))
    assert first == (stamp.stamp(str(there)), None)
    there.write_bytes(b"more")
    missing.write_bytes(b"came")
    assert (glance.stamp(str(there)), glance.stamp(str(missing))) == first
    with pytest.raises(FileNotFoundError):
        glance.stat(str(missing))
    glance.end()
    assert (glance.stamp(str(there)), glance.stamp(str(missing))) == (
        stamp.stamp(str(there)),
        stamp.stamp(str(missing)),
    )
    glance.begin()
    assert glance.stamp(str(there)) == stamp.stamp(str(there))


def test_outside_of_a_glance_each_look_is_a_new_one(tmp_path: Path) -> None:
    glance, file = Glance(), tmp_path / "file"
    assert glance.stamp(str(file)) is None
    file.write_bytes(b"x")
    assert glance.stat(str(file)) == stamp.stamp(str(file))
    with pytest.raises(NotADirectoryError):
        glance.stat(f"{file}/below")
