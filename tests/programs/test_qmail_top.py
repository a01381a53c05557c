"""qmail-top --once as a process, beside a real qmail-send and on a queue that nobody serves."""

import subprocess
import sys
from pathlib import Path

from tests.programs.sending import BIN, DEADLINE_S, Sending
from tests.programs.test_qmail_q import Asking, deferred, q

__all__ = ["q"]  # a fixture


def once(sending: Sending, *words: str) -> subprocess.CompletedProcess[str]:
    """qmail-top --once beside a running qmail-send."""
    process = subprocess.Popen(
        [sys.executable, "-ISXutf8", str(BIN / "qmail-top"), "--once", *words],
        env=sending.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if sending.pid:
        sending.until(lambda: process.poll() is not None)
    out, err = process.communicate(timeout=DEADLINE_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_once_shows_a_real_queue(sending: Sending, q: Asking, tmp_path: Path) -> None:
    number = deferred(sending, b"ann@far.example", b"bob@Far.example", b"joe@near.example")
    q("hold", str(number))
    (tmp_path / "log").write_text("status: local 0/10 remote 0/20\n")
    done = once(sending, str(tmp_path / "log"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "qmail-send runs" in done.stdout and "queue   1 messages: 1 held" in done.stdout
    assert f"{'1':>8}  far.example\n" in done.stdout and "held" in done.stdout.splitlines()[-1]
    sending.kill()
    assert "DOES NOT RUN" in once(sending, str(tmp_path / "log")).stdout


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    words = [sys.executable, "-ISXutf8", str(BIN / "qmail-top"), "--once"]
    done = subprocess.run(words, env={"QMAIL_HOME": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 111 and done.stderr.startswith("qmail-top: ") and done.stderr.count("\n") == 1
    assert subprocess.run([*words, "--bad"], capture_output=True, check=False).returncode == 100
