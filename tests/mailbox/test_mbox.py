"""mbox delivery: locked, whole, or cut back (contract local, section 6)."""

import errno
import fcntl
import os
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


def test_a_failed_write_is_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
