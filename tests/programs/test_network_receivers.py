"""qmail-smtpd, qmail-qmtpd and qmail-qmqpd in warm workers of our tcpserver, in front of a real queue service."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.loopback import ask, talk
from tests.programs.test_qmail_qmqpd import request
from tests.programs.test_qmail_qmtpd import message
from tests.spool.queue_tree import REPO, Tree, act_as
from tests.waiting import wait_for

DEADLINE_S = 30
SMTP = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@here.test>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n"
PROGRAMS = [
    pytest.param("qmail-smtpd", SMTP, rb"250 ok \d+ qp (\d+)\r\n", id="smtpd"),
    pytest.param("qmail-qmtpd", message(b"\rSubject: x\r\n\r\nbody\r\n"), rb"Kok \d+ qp (\d+),", id="qmtpd"),
    pytest.param(
        "qmail-qmqpd", request(b"Subject: x\n\nbody\n", b"a@b", b"c@here.test"), rb"Kok \d+ qp (\d+),", id="qmqpd"
    ),
]


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=True)
    (made.home / "control" / "me").write_text("mx.test\n")
    (made.home / "control" / "rcpthosts").write_text("here.test\n")
    made.start_service()
    yield made
    made.close()


@contextmanager
def server(tree: Tree, program: str) -> Iterator[int]:
    """The port of a tcpserver that runs ``program`` for one client at a time."""
    words = [
        REPO / "bin/tcpserver",
        "-1",
        "-v",
        "-H",
        "-R",
        "-l",
        "0",
        "-c",
        "1",
        "127.0.0.1",
        "0",
        REPO / "bin" / program,
    ]
    with (tree.home / "log").open("wb") as log:
        process = subprocess.Popen(
            words, env=tree.environ(), stdout=subprocess.PIPE, stderr=log, preexec_fn=act_as(tree.owner)
        )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        process.stdout.close()


@pytest.mark.parametrize(("program", "wire", "success"), PROGRAMS)
def test_one_worker_takes_message_after_message(tree: Tree, program: str, wire: bytes, success: bytes) -> None:
    answers = []
    with server(tree, program) as port:
        for _ in range(4):
            answers.append(ask(port, wire))
            ask(port, wire[: len(wire) // 2])  # and a client that goes away
        log = tree.home / "log"
        wait_for(lambda: log.read_bytes().count(b"tcpserver: end ") == 8, "the end of each session")
    numbers = [number for answer in answers for number in re.findall(success, answer)]
    assert len(set(numbers)) == 4 and all(int(number) > 4194304 for number in numbers), (answers, log.read_bytes())
    pids = set(re.findall(rb"tcpserver: end (\d+) ", log.read_bytes()))
    assert len(pids) == 1, "not the same worker"
    assert b"Traceback" not in log.read_bytes()
    wait_for(lambda: len(tree.todo()) == 4 and not tree.leftovers(), "four messages")
    text, envelope = tree.read(tree.todo()[0])
    assert text.endswith(b"\nSubject: x\n\nbody\n") and envelope.endswith(b"Fa@b\0Tc@here.test\0")


@pytest.mark.parametrize(("program", "wire", "success"), PROGRAMS)
def test_a_queue_program_that_cannot_be_run_defers_mail(tree: Tree, program: str, wire: bytes, success: bytes) -> None:
    environ = tree.environ() | {"QMAILQUEUE": "/nonexistent"}
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [REPO / "bin" / program], stdin=theirs, stdout=theirs, env=environ, stderr=subprocess.PIPE
        )
    with ours:
        heard = talk(ours, wire)
    process.communicate(timeout=DEADLINE_S)
    assert re.search(rb"(451 |:Z)unable to exec qq \(#4\.3\.0\)", heard)
