"""A FIFO in the place of the lock: qmail-q, which root runs, and a qmail-send that starts wait for nothing."""

import os
import subprocess

import pytest

from tests.spool.queue_tree import REPO, Tree


@pytest.mark.parametrize("words", [["qmail-q", "hold", "7"], ["qmail-send"]], ids=["qmail-q", "qmail-send"])
def test_a_fifo_in_the_place_of_the_lock_is_an_error(words: list[str]) -> None:
    tree = Tree(single_user=True)
    try:
        (tree.home / "control").mkdir(exist_ok=True)
        (tree.home / "control/me").write_text("mx.test\n")
        lock = tree.home / "queue/lock/sendmutex"
        lock.unlink(missing_ok=True)
        os.mkfifo(lock)
        lock.chmod(0o666)  # qmails itself has put it there
        program, *options = words
        ended = subprocess.run(
            [REPO / "bin" / program, *options],
            env=tree.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
        )
        assert ended.returncode == 111
        assert b"denied" not in ended.stderr
    finally:
        tree.close()
