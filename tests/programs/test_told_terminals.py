"""Programs whose work may be long tell a terminal how far they are, and nobody else."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.scale import HOUR, fill, make_home
from tests.programs.sending import BIN
from tests.public_directory import public_directory

AT_ONCE = "import pyqmail.system.progress as p; p.START_S = p.EVERY_S = 0.0"


def maildir(home: Path) -> dict[str, str]:
    """Ten messages to move."""
    for part in ("cur", "new", "tmp"):
        (home / "Maildir" / part).mkdir(parents=True)
    for number in range(10):
        path = home / f"Maildir/new/{1_700_000_000 + number}.x"
        path.write_text("Subject: x\n\nhello\n")
        os.utime(path, (path.stat().st_mtime - 60,) * 2)  # one of this very second is left where it is
    return {"MAILDIR": str(home / "Maildir"), "MAIL": str(home / "mbox"), "MAILTMP": str(home / "mbox.tmp")}


def queue(home: Path) -> dict[str, str]:
    """Ten messages to list."""
    made = make_home(home)
    (made / "queue/pyqmail").mkdir()
    fill(made / "queue", "remote", 10, due=lambda index: time.time() + HOUR)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "65534:65534", made], check=True)  # it is read as its owner
    return {"QMAIL_HOME": str(made)}


@pytest.mark.parametrize(
    ("program", "words", "prepare", "what"),
    [("maildir2mbox", [], maildir, "maildir2mbox"), ("qmail_q", ["list"], queue, "reading the queue")],
    ids=["maildir2mbox", "qmail-q"],
)
def test_a_terminal_is_told_and_a_file_is_not(
    program: str, words: list[str], prepare: Callable[[Path], dict[str, str]], what: str
) -> None:
    code = f"import sys; sys.path[:0] = [{str(BIN.parent)!r}, {str(BIN.parent / '.deps')!r}]\n{AT_ONCE}\n"
    code += f"from pyqmail.launch import run\nrun('pyqmail.programs.{program}')\n"
    for terminal in (True, False):
        ours, theirs = os.openpty() if terminal else os.pipe()
        command = [sys.executable, "-ISXutf8", "-c", code, *words]
        with public_directory() as place:
            environ = {"PATH": os.environ["PATH"], **prepare(place)}
            done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=60)
        os.close(theirs)
        said = said_to(ours)
        assert done.returncode == 0, said
        if terminal:
            assert f"\r{what} [".encode() in said and b"9 of 10, 90%" in said and said.endswith(b"\r\x1b[K")
        else:
            assert said == b""


def said_to(end: int) -> bytes:
    """All that came, now that nobody writes any more."""
    found = b""
    try:
        while data := os.read(end, 65536):
            found += data
    except OSError:
        pass  # so ends a terminal
    finally:
        os.close(end)
    return found
