"""The message of a delivery: all of it, however it comes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.mailbox.message import CHUNK, Message


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes that are asked for."""
    asked: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: asked.append(size) or pread(fd, size, offset))
    yield asked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "message"


def opened(file: Path, data: bytes) -> int:
    file.write_bytes(data)
    return os.open(file, os.O_RDONLY)


@pytest.mark.parametrize("length", [0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
@pytest.mark.parametrize("told", [0, 1, -1, None], ids=["its size", "more", "less", "no size"])
def test_a_message_is_read_whole_whatever_its_size_is_said_to_be(file: Path, length: int, told: int | None) -> None:
    data = os.urandom(length)
    fd = opened(file, data)
    message = Message(fd, None if told is None else length + told)
    assert b"".join(message.chunks()) == b"".join(message.chunks()) == data
    os.close(fd)


def test_a_small_message_of_known_size_is_read_once(file: Path, reads: list[int]) -> None:
    fd = opened(file, b"x" * 4096)
    message = Message(fd, 4096)
    for _ in range(3):
        assert b"".join(message.chunks()) == b"x" * 4096
    assert reads == [CHUNK]
    os.close(fd)


@pytest.mark.parametrize("size", [None, 8192])
def test_a_read_cut_short_by_an_error_is_not_the_end(
    file: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    """As the kernel gives what it has of a damaged file, and the error with the next read."""

    def damaged(_fd: int, _size: int, offset: int) -> bytes:
        if offset:
            raise OSError(5, "Input/output error")
        return b"x" * 4096

    fd = opened(file, b"")
    monkeypatch.setattr(os, "pread", damaged)
    with pytest.raises(OSError, match="Input/output"):
        b"".join(Message(fd, size).chunks())
    monkeypatch.undo()
    os.close(fd)
