"""A line for a log that may be full."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from pyqmail.system.logpipe import write_line


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
