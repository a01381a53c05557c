"""Maildir delivery: whole or not at all, with and without unnamed files (contract local, section 6)."""

import errno
import os
import re
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.failure import TemporaryFailure
from pyqmail.mailbox import maildir
from pyqmail.system import files


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No filesystem is known yet."""
    monkeypatch.setattr(maildir, "_NAMED_ONLY", set())


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


def refuse(code: int) -> Callable[..., int]:
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
    monkeypatch.setattr(maildir, "unique_name", lambda *_: next(names))
    put(box, b"first")
    put(box, b"second")
    assert {path.name: path.read_bytes() for path in (box / "new").iterdir()} == {"same": b"first", "other": b"second"}


def test_a_filesystem_without_unnamed_files_is_remembered(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def unsupported(directory: bytes, _mode: int) -> int:
        asked.append(directory)
        raise OSError(errno.EOPNOTSUPP, "no unnamed files")

    monkeypatch.setattr(files, "open_unnamed", unsupported)
    for _ in range(3):
        put(box, b"a")
    assert len(asked) == 1
    assert contents(box) == [b"a"] * 3


def test_only_that_filesystem_is_remembered(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir, "_NAMED_ONLY", {box.stat().st_dev + 1})
    monkeypatch.setattr(files, "create_exclusive", refuse(errno.EIO))
    put(box, b"a")
    assert contents(box) == [b"a"]


def test_a_missing_new_is_no_fact_about_the_filesystem(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (box / "new").rmdir()
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        put(box, b"a")
    assert not list((box / "tmp").iterdir())
    (box / "new").mkdir()
    monkeypatch.setattr(files, "create_exclusive", refuse(errno.EIO))
    put(box, b"a")
    assert contents(box) == [b"a"]


@pytest.mark.contract("local 6.10")
def test_the_classic_way_takes_another_name_in_new_at_once(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "open_unnamed", refuse(errno.EOPNOTSUPP))
    names = iter([b"same", b"same", b"other"])
    monkeypatch.setattr(maildir, "unique_name", lambda *_: next(names))
    put(box, b"first")
    put(box, b"second")
    assert {path.name: path.read_bytes() for path in (box / "new").iterdir()} == {"same": b"first", "other": b"second"}


def test_a_link_over_nfs_that_finds_itself_is_one_delivery(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer_lost(source: bytes, target: bytes) -> None:
        os.link(source, target)
        raise FileExistsError(errno.EEXIST, "asked twice")

    monkeypatch.setattr(files, "open_unnamed", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(files, "link", answer_lost)
    put(box, b"a")
    assert contents(box) == [b"a"]


@pytest.mark.contract("local 6.8")
def test_names_that_are_all_taken_defer(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in ("link_unnamed", "create_exclusive"):
        monkeypatch.setattr(files, step, refuse(errno.EEXIST))
        with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
            put(box, b"a")
        monkeypatch.setattr(files, "open_unnamed", refuse(errno.EOPNOTSUPP))
    assert contents(box) == []


@pytest.mark.contract("local 6.7")
@pytest.mark.parametrize("classic", [False, True])
def test_a_delivery_that_takes_too_long_leaves_nothing(
    box: Path, monkeypatch: pytest.MonkeyPatch, classic: bool
) -> None:
    reading, writing = os.pipe()
    if classic:
        monkeypatch.setattr(files, "open_unnamed", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(maildir, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(files, "sync", lambda _fd: os.read(reading, 1))
    try:
        with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
            put(box, b"a")
    finally:
        os.close(reading)
        os.close(writing)
    assert contents(box) == []
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.contract("local 6.9")
def test_a_kernel_that_takes_a_few_bytes_at_a_time(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    put(box, b"Return-Path: <>\n", b"long enough")
    assert contents(box) == [b"Return-Path: <>\nlong enough"]


@pytest.mark.contract("local 6.9")
def test_a_close_that_fails_is_a_delivery_that_failed(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = os.close
    failing: list[int] = []

    def sync(fd: int) -> None:
        failing.append(fd)

    def close_late(fd: int) -> None:
        close(fd)
        if fd in failing:
            raise OSError(errno.EIO, "written late, and in vain")

    monkeypatch.setattr(files, "open_unnamed", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(files, "sync", sync)
    monkeypatch.setattr(os, "close", close_late)
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        put(box, b"a")
    monkeypatch.undo()
    assert contents(box) == []


STEPS = {
    False: ("open_unnamed", "write_all", "sync", "link_unnamed", "sync_directory"),
    True: ("create_exclusive", "write_all", "sync", "link", "unlink_if_present", "sync_directory"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("classic", "step"), [(classic, step) for classic, steps in STEPS.items() for step in steps])
def test_a_process_that_dies_at_any_step_leaves_all_or_nothing(
    box: Path, monkeypatch: pytest.MonkeyPatch, classic: bool, step: str, after: bool
) -> None:
    real = getattr(files, step)

    def die(*arguments: object) -> object:
        if after:
            real(*arguments)
        os._exit(42)

    if classic:
        monkeypatch.setattr(files, "open_unnamed", refuse(errno.EOPNOTSUPP))
    pid = os.fork()
    if pid == 0:
        try:
            monkeypatch.setattr(files, step, die)
            put(box, b"Return-Path: <>\n", b"whole\n")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    whole = b"Return-Path: <>\nwhole\n"
    linked = step in ("unlink_if_present", "sync_directory") or (after and step.startswith("link"))
    assert [path.read_bytes() for path in (box / "new").iterdir()] == [whole] * linked
    put(box, b"Return-Path: <>\n", b"whole\n")  # the next attempt is not in the way of what was left
    assert [path.read_bytes() for path in (box / "new").iterdir()] == [whole] * (linked + 1)


def test_a_directory_that_cannot_be_synced_fails_the_delivery(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "sync_directory", refuse(errno.EIO))
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        put(box, b"a")


@pytest.mark.skipif(os.getuid() != 0, reason="needs a user without root's powers")
def test_a_drop_box_that_we_may_write_but_not_read_takes_mail() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        os.chmod(base, 0o755)
        drop_box(Path(base) / "M")


def drop_box(box: Path) -> None:
    for path in (box, box / "tmp", box / "new", box / "cur"):
        path.mkdir()
        os.chown(path, 0, 39001)
        path.chmod(0o770 if path.name == "tmp" else 0o730)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([39001])
            os.setresuid(39002, 39002, 39002)
            put(box, b"a")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert contents(box) == [b"a"]


@pytest.mark.contract("local 6.6")
@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.EIO, r"#4\.3\.0"), (errno.ESTALE, r"#4\.3\.0"), (errno.EACCES, r"#4\.2\.1"), (errno.ELOOP, r"#4\.2\.1")],
)
def test_a_maildir_that_cannot_be_entered(box: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: str) -> None:
    monkeypatch.setattr(files, "open_unnamed", refuse(code))
    monkeypatch.setattr(os, "stat", refuse(code))
    with pytest.raises(TemporaryFailure, match=expected):
        put(box, b"a")


@pytest.mark.contract("local 6.6")
def test_a_maildir_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TemporaryFailure, match=r"#4\.2\.1"):
        put(tmp_path / "none", b"a")


@pytest.mark.parametrize("name", ["tmp", "new"])
def test_a_maildir_with_a_directory_missing(box: Path, name: str) -> None:
    (box / name).rmdir()
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        put(box, b"a")


def test_many_names_of_one_moment_differ() -> None:
    names = [maildir.unique_name(count) for count in range(1000)]
    assert len(set(names)) == 1000
    assert all(re.fullmatch(rb"\d+\.M\d+P\d+Q\d+\.[^/:]+", name) for name in names)


def test_a_child_names_itself() -> None:
    assert b"P%dQ" % os.getpid() in maildir.unique_name(1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, maildir.unique_name(1))
        os._exit(0)
    os.waitpid(child, 0)
    assert b"P%dQ1." % child in os.read(reader, 500)
    os.close(reader)
    os.close(writer)


@pytest.mark.contract("local 6.7", "local 9.16")
def test_names_carry_time_process_count_and_escaped_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "a/b:c", "", "", "")))
    monkeypatch.setattr(maildir, "_SELF", [])
    seconds, middle, host = maildir.unique_name(7).split(b".", 2)
    assert seconds.isdigit() and middle.startswith(b"M") and middle.endswith(b"P%dQ7" % os.getpid())
    assert host == rb"a\057b\072c"
