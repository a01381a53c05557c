"""A line for a log that may be full."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from pyqmail.system.logpipe import LogWriter, write_line


def test_a_line_goes_into_a_pipe() -> None:
    reader, writer = os.pipe()
    assert write_line(writer, b"line\n", 0.0)
    assert os.read(reader, 100) == b"line\n"
    os.close(reader)
    assert not write_line(writer, b"line\n", 0.0)
    os.close(writer)
    assert not write_line(writer, b"line\n", 0.0)


def test_a_line_goes_into_a_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as log:
        assert write_line(log.fileno(), b"line\n", 0.0)
        assert write_line(log.fileno(), b"next\n", 0.0, regular=True)
    assert (tmp_path / "log").read_bytes() == b"line\nnext\n"


@pytest.mark.parametrize("old_kernel", [False, True])
def test_a_full_pipe_is_given_up(monkeypatch: pytest.MonkeyPatch, old_kernel: bool) -> None:
    if old_kernel:

        def unknown(*_: object) -> int:
            raise OSError(errno.EOPNOTSUPP, "not known")

        monkeypatch.setattr(os, "pwritev", unknown)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    assert not write_line(writer, b"line\n", 0.0)
    assert not write_line(writer, b"line\n", 0.05)
    os.read(reader, 4096)
    assert write_line(writer, b"line\n", 0.0)
    assert os.read(reader, 100) == b"line\n"
    os.close(reader)
    os.close(writer)


def test_a_writer_waits_once_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogWriter, "WAIT_S", 0.05)
    reader, writer = os.pipe()
    log = LogWriter(writer, b"tcpserver")
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    log.write(b"first\n")
    monkeypatch.setattr(LogWriter, "WAIT_S", 1000)
    log.write(b"second\nthird\n")
    os.read(reader, 4096)
    log.write(b"fourth\n")
    note = b"tcpserver: warning: 3 lines of the log were lost: it took none\n"
    assert os.read(reader, 4096) == note + b"fourth\n"
    os.close(reader)
    os.close(writer)


def test_a_writer_cuts_what_is_long_between_lines() -> None:
    reader, writer = os.pipe()
    text = b"y" * 3000 + b"\n" + b"z" * 2000 + b"\n"
    LogWriter(writer, b"tcpserver").write(text)
    assert os.read(reader, 8192) == text
    os.close(reader)
    os.close(writer)
