"""qmail-clean as a process."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.spool.queue_tree import DEADLINE_SECONDS, PYTHON, REPO, Tree
from tests.waiting import wait_for

STALE = 129600


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=True)
    yield made
    made.close()


def start(tree: Tree) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*PYTHON, str(REPO / "bin/qmail-clean")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=tree.environ(),
        bufsize=0,
    )


def ask(tree: Tree, requests: bytes) -> bytes:
    """The answers to ``requests``; the program must exit 0 at their end."""
    child = start(tree)
    answers = child.communicate(requests, timeout=DEADLINE_SECONDS)[0]
    assert child.returncode == 0
    return answers


def touch(tree: Tree, *names: str) -> None:
    for name in names:
        (tree.queue / name).touch()


@pytest.mark.contract("queue 8.1", "queue 4.13", "queue 4.14", "queue 12.6")
def test_foop_removes_intd_and_the_split_mess_file(tree: Tree) -> None:
    touch(tree, "intd/50", "mess/4/50", "todo/50")
    assert ask(tree, b"foop/50\0") == b"+"
    assert sorted(os.listdir(tree.queue / "todo")) == ["50"]
    assert tree.messages() == [] and tree.leftovers() == []


@pytest.mark.contract("queue 8.2", "queue 4.10", "queue 4.11")
def test_todo_removes_intd_and_todo_and_keeps_the_message(tree: Tree) -> None:
    touch(tree, "intd/50", "mess/4/50", "todo/50")
    assert ask(tree, b"todo/50\0") == b"+"
    assert tree.todo() == [] and tree.leftovers() == []
    assert len(tree.messages()) == 1


def test_what_was_asked_together_is_answered_together(tree: Tree) -> None:
    child = start(tree)
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(b"todo/1\0foop/1\0x\0foop/")
    assert child.stdout.read(100) == b"++x"
    child.stdin.write(b"2\0")
    assert child.stdout.read(100) == b"+"
    child.communicate(timeout=DEADLINE_SECONDS)


@pytest.mark.contract("queue 8.1", "queue 8.2")
def test_files_that_are_already_gone_are_no_error(tree: Tree) -> None:
    assert ask(tree, b"foop/50\0todo/50\0") == b"++"


@pytest.mark.contract("queue 8.2", "queue 4.11")
def test_todo_stays_while_intd_cannot_be_removed(tree: Tree) -> None:
    (tree.queue / "intd/50").mkdir()
    touch(tree, "todo/50")
    assert ask(tree, b"todo/50\0") == b"!"
    assert os.listdir(tree.queue / "todo") == ["50"]


@pytest.mark.contract("queue 8.1", "queue 4.14")
def test_the_first_unlink_error_answers_and_stops(tree: Tree) -> None:
    (tree.queue / "intd/50").mkdir()
    touch(tree, "mess/4/50")
    assert ask(tree, b"foop/50\0") == b"!"
    assert len(tree.messages()) == 1


@pytest.mark.contract("queue 8.3")
def test_a_malformed_request_gets_one_x_and_does_nothing(tree: Tree) -> None:
    touch(tree, "mess/4/50")
    assert ask(tree, b"foop/50a\0mess/50\0\0foop/5") == b"xxx"
    assert len(tree.messages()) == 1


def age(tree: Tree, name: str, seconds: float) -> None:
    path = tree.queue / name
    path.touch()
    now = path.stat().st_ctime
    os.utime(path, (now - seconds, now))


@pytest.mark.contract("queue 1.6", "queue 2.2", "queue 12.5")
def test_the_first_request_sweeps_pid_by_atime(tree: Tree) -> None:
    age(tree, "pid/old", STALE + 5)
    age(tree, "pid/young", STALE - 600)
    ask(tree, b"todo/1\0")
    assert os.listdir(tree.queue / "pid") == ["young"]


def test_pid_is_swept_again_at_every_31st_request(tree: Tree) -> None:
    child = start(tree)
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(b"todo/1\0")
    assert child.stdout.read(1) == b"+"
    age(tree, "pid/old", STALE + 5)
    for _ in range(30):
        child.stdin.write(b"todo/1\0")
        assert child.stdout.read(1) == b"+"
    assert os.listdir(tree.queue / "pid") == ["old"]
    child.stdin.write(b"todo/1\0")
    assert child.stdout.read(1) == b"+"
    assert os.listdir(tree.queue / "pid") == []
    child.communicate(timeout=DEADLINE_SECONDS)


def test_nobody_to_answer_is_exit_100(tree: Tree) -> None:
    child = start(tree)
    assert child.stdin is not None and child.stdout is not None
    child.stdout.close()
    child.stdin.write(b"todo/1\0")
    wait_for(lambda: child.poll() is not None, "its end")
    child.stdin.close()
    assert child.returncode == 100


def test_no_queue_is_exit_111(tree: Tree) -> None:
    tree.queue.rename(tree.home / "elsewhere")
    assert start(tree).wait(DEADLINE_SECONDS) == 111


def test_fact_removes_the_facts_of_a_message_that_leaves_and_not_those_of_a_new_one(tree: Tree) -> None:
    touch(tree, "mess/4/50", "pyqmail/facts/4/50", "mess/5/51", "todo/51", "pyqmail/facts/5/51")
    assert ask(tree, b"fact/50\0fact/51\0fact/52\0") == b"+!+"
    assert [path.name for path in (tree.queue / "pyqmail/facts").glob("*/*")] == ["51"]
    assert len(tree.messages()) == 2
