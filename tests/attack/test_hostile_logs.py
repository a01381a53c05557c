"""Logs that who writes them has made into something else: whoever reads them waits for nothing."""

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from pyqmail.log.following import GrowingFile
from pyqmail.log.sources import LINE_MAX, read_directory, read_file
from tests.attack.test_bounds import SPARSE, in_little_memory, sparse
from tests.spool.queue_tree import REPO

READERS = {"qmail-log": ["qmail-log"], "qmail-report": ["qmail-report", "day"]}
LINE = b"@400000006740000000000000 starting delivery 1: msg 7 to local a@b\n"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD = {"a FIFO": fifo, "a device": device}


@pytest.mark.parametrize("make", ODD.values(), ids=list(ODD))
@pytest.mark.parametrize("name", ["current", "@400000006740000000000000.s", "@400000006740000000000000.s.gz"])
@pytest.mark.parametrize("words", READERS.values(), ids=list(READERS))
def test_what_is_no_file_in_a_directory_of_logs_is_an_error(
    tmp_path: Path, make: object, name: str, words: list[str]
) -> None:
    (tmp_path / "current").write_bytes(LINE)
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)  # type: ignore[operator]
    program, *options = words
    command = [f"{REPO}/bin/{program}", *options, str(tmp_path)]
    told = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert told.returncode == 111
    assert os.fsencode(name) in told.stderr


@pytest.mark.parametrize("make", ODD.values(), ids=list(ODD))
def test_what_is_no_file_is_not_followed(tmp_path: Path, make: object) -> None:
    make(tmp_path / "current")  # type: ignore[operator]
    with pytest.raises(OSError, match="no ordinary file"):
        GrowingFile(str(tmp_path / "current")).read()


def test_a_compressed_file_in_a_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "@400000006740000000000000.s.gz").write_bytes(gzip.compress(LINE))
    (tmp_path / "current").write_bytes(b"x\n")
    assert list(read_directory(str(tmp_path), follow=False)) == [LINE.decode(), "x\n"]


def test_a_rotated_file_that_has_become_huge_is_followed_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "current"
    log.write_bytes(LINE)
    looks = iter([True])

    def replaced(_fd: int, path: str) -> bool:
        """It grew after the last line was read, and has been replaced."""
        sparse(Path(path), size=SPARSE, head=LINE)
        return next(looks)

    monkeypatch.setattr("pyqmail.log.sources.replaced", replaced)

    def follow() -> None:
        lines = read_file(str(log), follow=True)
        assert next(lines) == LINE.decode()
        assert len(next(lines)) <= LINE_MAX

    in_little_memory(follow)
