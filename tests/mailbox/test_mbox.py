"""mbox delivery: locked, whole, or cut back (contract local, section 6)."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.failure import TemporaryFailure
from pyqmail.mailbox import mbox
from pyqmail.system import files


def test_it_appends_and_creates_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    mbox.deliver(os.fsencode(path), [b"a\n", b"\n"])
    mbox.deliver(os.fsencode(path), [b"b\n", b"\n"])
    assert path.read_bytes() == b"a\n\nb\n\n"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.contract("local 9.16")
def test_a_lock_that_stays_defers(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    with path.open("wb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
            mbox.deliver(os.fsencode(path), [b"a"], lock_patience_s=0.05)
    assert path.read_bytes() == b""


@pytest.mark.contract("local 6")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_disk_that_fills_in_the_middle_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, code: int
) -> None:
    path = tmp_path / "mbox"
    path.write_bytes(b"old\n")
    write = os.write
    calls = iter(range(100))

    def fill(fd: int, data: bytes) -> int:
        if next(calls) == at:
            raise OSError(code, os.strerror(code))
        return write(fd, data[:2])

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        mbox.deliver(os.fsencode(path), [b"new", b"more\n"])
    assert path.read_bytes() == b"old\n"


@pytest.mark.contract("local 6")
def test_a_message_that_cannot_be_read_leaves_no_part(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"From x\n"
        raise OSError(errno.EIO, "bad sector")

    path = tmp_path / "mbox"
    path.write_bytes(b"old\n")
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        mbox.deliver(os.fsencode(path), broken())
    assert path.read_bytes() == b"old\n"


@pytest.mark.contract("local 6")
def test_without_a_lock_nothing_is_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        mbox.deliver(os.fsencode(tmp_path / "mbox"), [b"a"])
    assert (tmp_path / "mbox").read_bytes() == b"a"  # another delivery may have appended since


def test_a_kernel_that_takes_a_few_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    mbox.deliver(os.fsencode(tmp_path / "mbox"), [b"From x\n", b"long enough\n\n"])
    assert (tmp_path / "mbox").read_bytes() == b"From x\nlong enough\n\n"


def test_a_new_mbox_is_on_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(files, "sync_directory", synced.append)
    mbox.deliver(os.fsencode(tmp_path / "mbox"), [b"a\n"])
    mbox.deliver(os.fsencode(tmp_path / "mbox"), [b"b\n"])
    assert synced == [os.fsencode(tmp_path)]


def test_an_mbox_replaced_while_we_waited_is_not_the_one_that_gets_the_message(tmp_path: Path) -> None:
    path, new = tmp_path / "mbox", tmp_path / "new"
    path.write_bytes(b"old\n")
    new.write_bytes(b"moved\n")
    locked, waiting = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with path.open("ab") as holder:
                fcntl.flock(holder, fcntl.LOCK_EX)
                os.write(locked[1], b"x")
                os.read(waiting[0], 1)
                new.rename(path)
        finally:
            os._exit(0)
    os.read(locked[0], 1)

    def release(fd: int, how: int) -> None:
        if not how & fcntl.LOCK_NB:
            os.write(waiting[1], b"x")
        flock(fd, how)

    flock = fcntl.flock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", release)
        mbox.deliver(os.fsencode(path), [b"mine\n"])
    os.waitpid(pid, 0)
    for fd in (*locked, *waiting):
        os.close(fd)
    assert path.read_bytes() == b"moved\nmine\n"


def test_two_deliveries_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    children = []
    for letter in b"abcd":
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for _ in range(25):
                    mbox.deliver(os.fsencode(path), [b"%c" % letter * 5000, b"%c" % letter * 5000 + b"\n"])
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    lines = path.read_bytes().split(b"\n")
    assert sorted(lines) == sorted([b""] + [b"%c" % letter * 10000 for letter in b"abcd"] * 25)


def test_dev_full_is_full() -> None:
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        mbox.deliver(b"/dev/full", [b"a"])


def test_a_failed_sync_is_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mbox"
    path.write_bytes(b"old\n")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):
        mbox.deliver(os.fsencode(path), [b"new\n"])
    assert path.read_bytes() == b"old\n"


def test_where_locks_do_not_work_it_delivers_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    mbox.deliver(os.fsencode(tmp_path / "mbox"), [b"a"])
    assert (tmp_path / "mbox").read_bytes() == b"a"


def test_what_cannot_be_opened_is_4_2_1(tmp_path: Path) -> None:
    with pytest.raises(TemporaryFailure, match=r"#4\.2\.1"):
        mbox.deliver(os.fsencode(tmp_path), [b"a"])


@pytest.mark.contract("local 9.14")
def test_a_fifo_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(TemporaryFailure, match=r"#4\.3\.0"):  # its fsync is refused, after the bytes went
            mbox.deliver(os.fsencode(path), [b"hello"])
        assert os.read(reader, 10) == b"hello"
    finally:
        os.close(reader)
