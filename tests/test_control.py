"""Control files: one rule per reader (qmail-control(5))."""

import os
import time
from pathlib import Path

import pytest

from pyqmail import control
from pyqmail.system import file_cache, stamp
from pyqmail.system.file_cache import FileCache
from tests.waiting import wait_for


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "control").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("data", "value"),
    [
        pytest.param(b"a b \t\nc\n", b"a b", id="first line without its trailing blanks"),
        pytest.param(b" a", b" a", id="leading blanks stay"),
        pytest.param(b"#a\n", b"#a", id="a comment sign is data"),
        pytest.param(b"a\r\n", b"a\r", id="a carriage return is kept"),
        pytest.param(b"", b"", id="an empty file is an empty value"),
        pytest.param(b"\nb\n", b"", id="a blank first line is an empty value"),
    ],
)
def test_line(data: bytes, value: bytes) -> None:
    assert control.parse_line(data) == value


@pytest.mark.parametrize(
    ("data", "value"),
    [
        pytest.param(b"10k", 10, id="digits up to the first other byte"),
        pytest.param(b" 10", None, id="a leading blank is no number"),
        pytest.param(b"-5", None, id="a sign is no number"),
        pytest.param(b"", None, id="empty is no number"),
        pytest.param(b"0", 0, id="zero is a number"),
    ],
)
def test_integer(data: bytes, value: int | None) -> None:
    assert control.parse_integer(data) == value


def test_lists_skip_blank_lines_and_comments_in_column_one() -> None:
    assert control.parse_lines(b"a \n\n#c\n #d\nx\0y\nlast") == (b"a", b" #d", b"x", b"y", b"last")


def test_of_equal_keys_the_last_line_wins() -> None:
    assert control.parse_mapping(b"A:1\nno colon\na:2:3\n") == {b"a": b"2:3"}


def test_missing_is_none_but_unreadable_raises(home: Path) -> None:
    files = control.Control(str(home))
    assert files.line("me") is None
    (home / "control" / "locals").mkdir()
    with pytest.raises(control.ControlUnreadable, match="control/locals"):
        files.lines("locals")


def test_an_empty_file_does_not_fall_back_to_me(home: Path) -> None:
    (home / "control" / "me").write_bytes(b"mx\n")
    (home / "control" / "helohost").write_bytes(b"")
    files = control.Control(str(home))
    assert files.line_or_me("helohost") == b""
    assert files.line_or_me("bouncehost") == b"mx"


def test_knobs_default_as_in_qmail(home: Path) -> None:
    knobs = control.read_knobs(str(home))
    assert (knobs.split, knobs.spawn, knobs.break_char, knobs.patrn) == (23, 120, b"-", 0o002)


def test_home_comes_from_the_environment() -> None:
    assert control.home_of({b"QMAIL_HOME": b"/srv/q"}) == "/srv/q"
    assert control.home_of({}) == "/var/qmail"


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A process that keeps what it read; the paths that it opens."""
    monkeypatch.setattr(control.Control, "cache", FileCache())
    opened: list[str] = []
    original = os.open

    def noted(path: str, flags: int, *more: int) -> int:
        opened.append(os.path.basename(path))
        return original(path, flags, *more)

    monkeypatch.setattr(os, "open", noted)
    return opened


def test_what_has_settled_and_not_changed_is_not_read_again(
    home: Path, keeping: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "control/me").write_bytes(b"mx\n")
    monkeypatch.setattr(stamp, "SETTLED_NS", -1)
    files = control.Control(str(home))
    assert [files.line("me"), files.line("me")] == [b"mx", b"mx"]
    assert keeping == ["me"]


@pytest.mark.parametrize("how", ["written in place", "replaced", "closed", "removed"])
def test_any_change_is_seen_by_the_next_read(
    home: Path, keeping: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = home / "control/me"
    path.write_bytes(b"mx\n")
    monkeypatch.setattr(stamp, "SETTLED_NS", -1)
    files = control.Control(str(home))
    assert files.line("me") == b"mx"
    if how == "removed":
        path.unlink()
        assert files.line("me") is None
        return
    if how == "replaced":
        (home / "control/new").write_bytes(b"my\n")
        (home / "control/new").rename(path)
    elif how == "written in place":
        path.write_bytes(b"my\n")
        os.utime(path, (1, 1))
    else:
        before = path.stat().st_ctime_ns

        def closed() -> bool:
            path.chmod(0o600)
            return path.stat().st_ctime_ns != before

        wait_for(closed, "the clock to tick")
    assert files.line("me") == (b"mx" if how == "closed" else b"my")
    assert keeping.count("me") == 2


def test_what_has_just_changed_is_never_kept(home: Path, keeping: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "control/me").write_bytes(b"mx\n")
    now = (home / "control/me").stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: now)
    files = control.Control(str(home))
    assert [files.line("me"), files.line("me")] == [b"mx", b"mx"]
    assert keeping == ["me", "me"]


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A process that keeps what it read; what it asks stat(2) for."""
    monkeypatch.setattr(control.Control, "cache", FileCache())
    asked: list[str] = []
    original = os.stat

    def noted(path: str, **options: object) -> os.stat_result:
        asked.append(os.path.basename(path))
        return original(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", noted)
    return asked


def test_a_missing_file_is_not_looked_for_again_until_its_directory_changes(
    home: Path, looking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamp, "SETTLED_NS", -1)
    os.utime(home / "control", (1, 1.5))
    assert [control.Control(str(home)).line("servercert") for _ in range(3)] == [None] * 3
    assert looking == ["control"] * 3
    (home / "control/servercert").write_bytes(b"here\n")
    assert control.Control(str(home)).line("servercert") == b"here"


def test_an_object_that_lives_long_sees_a_new_file_too(
    home: Path, looking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamp, "SETTLED_NS", -1)
    files = control.Control(str(home))
    assert files.line("me") is None
    (home / "control/me").write_bytes(b"mx\n")
    wait_for(lambda: files.line("me") == b"mx", "the stamp to be looked at again")


def test_a_link_that_leads_nowhere_is_followed_each_time(
    home: Path, looking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamp, "SETTLED_NS", -1)
    (home / "control/me").symlink_to("../elsewhere")
    assert [control.Control(str(home)).line("me") for _ in range(2)] == [None] * 2
    (home / "elsewhere").write_bytes(b"mx\n")
    assert control.Control(str(home)).line("me") == b"mx"


def test_the_names_of_a_directory_that_has_just_changed_are_not_remembered(
    home: Path, looking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (home / "control").stat()
    monkeypatch.setattr(time, "time_ns", lambda: before.st_mtime_ns)
    assert control.Control(str(home)).line("me") is None
    (home / "control/me").write_bytes(b"mx\n")
    monkeypatch.setattr(file_cache, "stamp", lambda path: stamp.stamp_of(before))  # within one tick of the clock
    assert control.Control(str(home)).line("me") == b"mx"


def test_what_is_made_of_a_file_is_made_once_and_again_when_it_changes(
    home: Path, keeping: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamp, "SETTLED_NS", -1)
    path, made = home / "control/locals", []

    def make(data: bytes) -> bytes:
        made.append(data)
        return data.upper()

    path.write_bytes(b"a\n")
    assert [control.Control(str(home)).made("locals", make) for _ in range(2)] == [b"A\n"] * 2
    path.write_bytes(b"bb\n")
    assert control.Control(str(home)).made("locals", make) == b"BB\n"
    assert control.Control(str(home)).made("locals", bytes.lower) == b"bb\n"
    assert made == [b"a\n", b"bb\n"]
    path.unlink()
    assert control.Control(str(home)).made("locals", make) is None
