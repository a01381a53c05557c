"""Maildir delivery: whole or not at all, with and without unnamed files (contract local, section 6)."""

import errno
import os
from pathlib import Path

import pytest

from pyqmail.failure import TemporaryFailure
from pyqmail.mailbox import maildir
from pyqmail.system import files


@pytest.fixture
def box(tmp_path: Path) -> Path:
    for name in ("tmp", "new", "cur"):
        (tmp_path / "M" / name).mkdir(parents=True)
    return tmp_path / "M"


def put(box: Path, *pieces: bytes, serial: int = 0) -> None:
    maildir.deliver(os.fsencode(box) + b"/", iter(pieces), serial=serial)


def contents(box: Path) -> list[bytes]:
    assert not list((box / "tmp").iterdir()) and not list((box / "cur").iterdir())
    return [path.read_bytes() for path in (box / "new").iterdir()]


def refuse(code: int):  # type: ignore[no-untyped-def]
    def call(*_arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.contract("local 6.9", "local 6.10")
def test_the_message_is_in_new_with_mode_0600(box: Path) -> None:
    put(box, b"Return-Path: <>\n", b"x" * 200000)
    assert contents(box) == [b"Return-Path: <>\n" + b"x" * 200000]
    assert [path.stat().st_mode & 0o777 for path in (box / "new").iterdir()] == [0o600]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EISDIR])
def test_without_unnamed_files_the_classic_way_is_taken(box: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(files, "open_unnamed", refuse(code))
    put(box, b"a", b"b")
    assert contents(box) == [b"ab"]


def test_without_proc_the_classic_way_is_taken(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "link_unnamed", refuse(errno.ENOENT))
    put(box, b"a", b"b")
    assert contents(box) == [b"ab"]


@pytest.mark.parametrize("step", ["open_unnamed", "write_all", "sync", "link_unnamed"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failing_disk_leaves_nothing(box: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int) -> None:
    monkeypatch.setattr(files, step, refuse(code))
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        put(box, b"a")
    assert contents(box) == []


@pytest.mark.parametrize("step", ["create_exclusive", "write_all", "sync", "link"])
def test_the_classic_way_leaves_nothing_either(box: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(files, "open_unnamed", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(files, step, refuse(errno.ENOSPC))
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        put(box, b"a")
    assert contents(box) == []


def test_the_directory_is_synced_after_the_name_is_there(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def record(step: str) -> None:
        real = getattr(files, step)

        def call(*arguments: object) -> object:
            order.append(step)
            return real(*arguments)

        monkeypatch.setattr(files, step, call)

    for step in ("sync", "link_unnamed", "sync_directory"):
        record(step)
    put(box, b"a")
    assert order == ["sync", "link_unnamed", "sync_directory"]


def test_a_taken_name_is_passed_over_at_once(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter([b"same", b"same", b"other"])
    monkeypatch.setattr(maildir, "unique_name", lambda _count: next(names))
    put(box, b"first")
    put(box, b"second")
    assert {path.name: path.read_bytes() for path in (box / "new").iterdir()} == {"same": b"first", "other": b"second"}


@pytest.mark.contract("local 6.6")
def test_a_maildir_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TemporaryFailure, match=r"#4\.2\.1"):
        put(tmp_path / "none", b"a")


@pytest.mark.parametrize("name", ["tmp", "new"])
def test_a_maildir_with_a_directory_missing(box: Path, name: str) -> None:
    (box / name).rmdir()
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        put(box, b"a")


def test_names_carry_time_process_count_and_escaped_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "a/b:c", "", "", "")))
    seconds, middle, host = maildir.unique_name(7).split(b".", 2)
    assert seconds.isdigit() and middle.startswith(b"M") and middle.endswith(b"P%dQ7" % os.getpid())
    assert host == rb"a\057b\072c"
