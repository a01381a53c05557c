"""Letters: recipients, and the room where one waits for its verdict."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyqmail.incoming import holding
from pyqmail.incoming.holding import MEMORY_MAX, SLOT, Holding, NoRoom
from pyqmail.incoming.letter import RECIPIENTS_MAX, Letter, TooManyRecipients


def test_more_recipients_than_memory_is_there_for() -> None:
    letter = Letter(0)
    with pytest.raises(TooManyRecipients):
        for _ in range(RECIPIENTS_MAX // 64 + 1):
            letter.add(b"a@b")


# Where it waits


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("control", "run", "run/incoming"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_small_message_waits_in_memory_and_a_large_one_on_the_disk(home: Path) -> None:
    held = Holding(str(home))
    held.write(b"x" * MEMORY_MAX)
    assert os.readlink(f"/proc/self/fd/{held.fd}").startswith("/memfd:")
    held.write(b"y" * 100)
    assert os.readlink(f"/proc/self/fd/{held.fd}").startswith(str(home / "run/incoming"))
    assert os.fstat(held.fd).st_nlink == 0 and os.listdir(home / "run/incoming") == ["room"]
    assert b"".join(held.pieces()) == b"x" * MEMORY_MAX + b"y" * 100
    held.close()
    held.close()


def test_all_sessions_together_have_so_much_room_and_who_dies_gives_it_back(home: Path) -> None:
    (home / "control/incomingmax").write_text(f"{3 * SLOT}\n")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pyqmail.incoming.holding import Holding, SLOT\n"
        "held = Holding(sys.argv[2]); held.write(b'x' * (2 * SLOT)); print('held', flush=True); sys.stdin.read()"
    )
    root = str(Path(__file__).resolve().parents[2])
    words = [sys.executable, "-ISc", program, root, str(home)]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == b"held\n"
    mine = Holding(str(home))
    mine.write(b"x" * SLOT)
    with pytest.raises(NoRoom):
        mine.write(b"x")
    other.kill()
    other.wait()
    mine.write(b"x" * SLOT)
    mine.close()
    other.stdout.close()
    other.stdin.close()


@pytest.mark.parametrize("fault", ["no directory", "a disk that is full"])
def test_no_place_on_the_disk_is_no_room(home: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    if fault == "no directory":
        (home / "run/incoming").rmdir()
    else:
        monkeypatch.setattr(holding, "CHUNK", 1)

        def full(fd: int, data: bytes) -> int:
            raise OSError(28, "full")

        held = Holding(str(home))
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(NoRoom):
            held.write(b"x")
        monkeypatch.undo()
        held.close()
        return
    held = Holding(str(home))
    with pytest.raises(NoRoom):
        held.write(b"x" * (MEMORY_MAX + 1))
    held.close()
