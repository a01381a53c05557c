"""A worker of qmail-queued, driven in this process."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from pyqmail.intake import client, worker
from pyqmail.intake.parent_link import TOLD_MAX
from pyqmail.intake.pulse import Pulse
from pyqmail.intake.receipt import Receipt
from pyqmail.policy.accounts import Accounts
from pyqmail.protocol import queued
from pyqmail.spool.enqueue import Spool
from pyqmail.spool.layout import Layout
from pyqmail.warm import wire
from tests.spool.queue_tree import Tree

ACCOUNTS = Accounts([1, 2, 3, 0, 4, 5, 6, 7], [8, 9], b"alias")


class Bench:
    """A worker, the parent's end of its job socket, and hand-made submissions."""

    def __init__(self, tree: Tree, *, alone: bool = False) -> None:
        self.parent, jobs = wire.pair()
        self.worker = worker.Worker(Spool(Layout(str(tree.home), 23), ACCOUNTS), jobs, Pulse(), alone=alone)
        self.worker.loop.add_reader(jobs.fileno(), self.worker._take_jobs)

    def ask(self, job: int, record: bytes, *fds: int, credentials: bool = False) -> socket.socket:
        """Send ``record`` as the request of a submission; the connection on which the answer will come."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(10)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, credentials)
        socket.send_fds(ours, [record], fds)
        wire.send_record(self.parent, queued.format_job(job, 99, 0, 4321), (theirs.fileno(),))
        theirs.close()
        self.worker.loop.run_once(10)
        self.worker._commit(self.worker.ready)
        self.worker.ready = []
        return ours

    def submit(self, job: int, message: int, envelope: int) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(10)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        assert client.hand_over(ours, message, envelope, serial=True)
        wire.send_record(self.parent, queued.format_job(job, 99, 0, os.getuid()), (theirs.fileno(),))
        for closing in (message, envelope):
            os.close(closing)
        theirs.close()
        self.worker.loop.run_once(10)
        return ours


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=True)
    yield made
    made.close()


@pytest.fixture
def bench(tree: Tree) -> Bench:
    return Bench(tree)


@pytest.mark.contract("queue 5.6", "queue 1.5", "queue 11.6")
def test_a_submission_older_than_a_day_is_52_and_leaves_nothing(tree: Tree, bench: Bench) -> None:
    message, message_pipe = os.pipe()
    envelope, envelope_pipe = os.pipe()
    connection = bench.submit(5, message, envelope)
    bench.worker._inspect()
    assert 5 in bench.worker.receipts
    bench.worker.receipts[5].started -= worker.LIFETIME_SECONDS
    bench.worker._inspect()
    assert queued.parse_answer(connection.recv(64)) == (52, 99)
    bench.worker.loop.run_once(0)
    assert queued.parse_freed(bench.parent.recv(64)) == [5]
    assert tree.messages() == [] and tree.leftovers() == []
    for fd in (message_pipe, envelope_pipe):
        os.close(fd)
    connection.close()


ENVELOPE = b"Fa\0Tb\0\0"


def whole(message: bytes = b"m\n", envelope: bytes = ENVELOPE) -> bytes:
    record = queued.format_whole(message, envelope, serial=True)
    assert record is not None
    return record


def test_a_message_that_comes_with_its_request_is_queued_for_who_has_connected(tree: Tree, bench: Bench) -> None:
    connection = bench.ask(1, whole(b"x" * 20000))
    assert queued.parse_answer(connection.recv(64)) == (0, 99)
    (number,) = tree.todo()
    message, todo = tree.read(number)
    assert message.startswith(b"Received: (qmail 99 invoked by uid 4321); ")
    assert message.split(b"\n", 1)[1] == b"x" * 20000
    assert todo == b"u4321\0p99\0Fa\0Tb\0"
    connection.close()


def test_in_a_worker_for_one_uid_the_kernel_says_who_it_is(tree: Tree) -> None:
    bench = Bench(tree, alone=True)
    connection = bench.ask(1, whole(), credentials=True)
    assert queued.parse_answer(connection.recv(64)) == (0, 99)
    assert tree.read(tree.todo()[0])[1].startswith(b"u%d\0p99\0" % os.getuid())
    connection.close()


@pytest.mark.parametrize("alone", [False, True])
def test_a_whole_request_with_descriptors_is_none(tree: Tree, alone: bool) -> None:
    bench = Bench(tree, alone=alone)
    reader, writer = os.pipe()
    connection = bench.ask(1, whole(), reader, credentials=True)
    assert queued.parse_answer(connection.recv(64)) == (81, 0)
    assert tree.messages() == [] and tree.leftovers() == []
    for fd in (reader, writer):
        os.close(fd)
    connection.close()


@pytest.mark.parametrize(
    ("envelope", "code"),
    [(b"", 54), (b"Fa\0Tb\0", 54), (b"Fa\0Tb", 54), (b"Ta\0\0", 91), (b"F" + b"a" * 1003 + b"\0\0", 11)],
)
def test_a_whole_request_without_a_whole_envelope_leaves_nothing(
    tree: Tree, bench: Bench, envelope: bytes, code: int
) -> None:
    connection = bench.ask(1, whole(envelope=envelope))
    assert queued.parse_answer(connection.recv(64)) == (code, 99)
    assert tree.messages() == [] and tree.leftovers() == [] and tree.todo() == []
    connection.close()


@pytest.mark.parametrize(
    "record",
    [
        whole()[:-1],
        whole()[:11],
        b"pq1\x03" + b"\xff" * 8,
        b"pq1\x03" + (1 << 31).to_bytes(4, "little") + bytes(4) + ENVELOPE,
        b"pq1\x04" + whole()[4:],
        whole() + bytes(queued.REQUEST_MAX),
    ],
)
def test_a_whole_request_whose_lengths_are_wrong_is_none(tree: Tree, bench: Bench, record: bytes) -> None:
    connection = bench.ask(1, record)
    assert queued.parse_answer(connection.recv(64)) == (81, 0)
    assert tree.messages() == [] and tree.leftovers() == []
    connection.close()


def test_the_parent_hears_at_once_of_all_that_is_over(bench: Bench) -> None:
    for job in range(1, 3 + TOLD_MAX):
        bench.worker.parent.over(job)
    bench.worker.loop.run_once(0)
    told = [queued.parse_freed(bench.parent.recv(1024)) for _ in range(2)]
    assert told == [list(range(1, 1 + TOLD_MAX)), [1 + TOLD_MAX, 2 + TOLD_MAX]]


def test_a_client_gone_before_the_commit_is_left_out_of_the_batch(tree: Tree, bench: Bench) -> None:
    pipes = [os.pipe() for _ in range(4)]
    for at, data in ((0, b"m\n"), (1, b"Fa\0Tb\0\0"), (2, b"n\n"), (3, b"Fc\0Td\0\0")):
        os.write(pipes[at][1], data)
        os.close(pipes[at][1])
    first = bench.submit(1, pipes[0][0], pipes[1][0])
    second = bench.submit(2, pipes[2][0], pipes[3][0])
    assert len(bench.worker.ready) == 2
    first.close()
    bench.worker._commit(bench.worker.ready)
    assert queued.parse_answer(second.recv(64)) == (0, 99)
    assert len(tree.todo()) == 1 and len(tree.messages()) == 1
    second.close()


def test_no_descriptors_are_left_after_many_submissions(bench: Bench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for job in range(20):
        message, envelope = os.pipe(), os.pipe()
        os.close(message[1])
        os.write(envelope[1], b"Fa\0Tb\0\0")
        os.close(envelope[1])
        connection = bench.submit(job, message[0], envelope[0])
        bench.worker._commit(bench.worker.ready)
        bench.worker.ready = []
        connection.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("lacking", [errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_a_job_that_cannot_be_received_now_is_received_later(
    tree: Tree, bench: Bench, monkeypatch: pytest.MonkeyPatch, lacking: int
) -> None:
    real, failed = wire.receive_record, []

    def receive_record(sock: socket.socket) -> tuple[bytes, list[int]] | None:
        if not failed:
            failed.append(sock)
            raise OSError(lacking, os.strerror(lacking))
        return real(sock)

    monkeypatch.setattr(wire, "receive_record", receive_record)
    message, envelope = os.pipe(), os.pipe()
    for pipe, data in ((message, b"m\n"), (envelope, b"Fa\0Tb\0\0")):
        os.write(pipe[1], data)
        os.close(pipe[1])
    connection = bench.submit(1, message[0], envelope[0])
    assert failed and not bench.worker.receipts and not bench.worker.parent.gone
    bench.worker.loop.run_once(10)
    bench.worker._commit(bench.worker.ready)
    assert queued.parse_answer(connection.recv(64)) == (0, 99)
    connection.close()


def test_a_client_has_its_answer_before_its_files_are_closed(
    tree: Tree, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    answer, close = Receipt.answer, bench.worker.spool.drafts.close
    monkeypatch.setattr(Receipt, "answer", lambda receipt, code: (steps.append(f"{code}"), answer(receipt, code)))
    monkeypatch.setattr(bench.worker.spool.drafts, "close", lambda draft: (steps.append("close"), close(draft)))
    before = len(os.listdir("/proc/self/fd"))
    connection = bench.ask(1, whole())
    assert queued.parse_answer(connection.recv(64)) == (0, 99)
    connection.close()
    assert steps[0] == "0" and steps.count("close") == 1
    assert len(os.listdir("/proc/self/fd")) == before and len(tree.messages()) == 1


def test_where_splice_does_not_work_the_message_is_copied(
    tree: Tree, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.splice

    def splice(source: int, target: int, count: int, *, flags: int) -> int:
        if target != bench.worker.reader.private[1]:
            raise OSError(22, "Invalid argument")
        return real(source, target, count, flags=flags)

    monkeypatch.setattr(os, "splice", splice)
    message, envelope = os.pipe(), os.pipe()
    for pipe, data in ((message, b"x" * 60000), (envelope, b"Fa\0Tb\0\0")):
        os.write(pipe[1], data)
        os.close(pipe[1])
    connection = bench.submit(1, message[0], envelope[0])
    bench.worker._commit(bench.worker.ready)
    assert queued.parse_answer(connection.recv(64)) == (0, 99)
    assert tree.read(tree.todo()[0])[0].split(b"\n", 1)[1] == b"x" * 60000
    connection.close()


def test_what_a_failed_read_leaves_behind_is_nobody_elses_envelope(
    tree: Tree, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client's envelope in another's message would send it to the wrong people."""
    real, private, failed = os.read, bench.worker.reader.private[0], []

    def read(fd: int, count: int) -> bytes:
        if fd == private and not failed:
            failed.append(fd)
            raise OSError(5, "Input/output error")
        return real(fd, count)

    monkeypatch.setattr(os, "read", read)
    answers = []
    for job, envelope in ((1, b"Fa\0Tfirst\0\0"), (2, b"Fa\0Tsecond\0\0")):
        pipes = os.pipe(), os.pipe()
        os.close(pipes[0][1])
        os.write(pipes[1][1], envelope)
        os.close(pipes[1][1])
        connection = bench.submit(job, pipes[0][0], pipes[1][0])
        bench.worker._commit(bench.worker.ready)
        bench.worker.ready = []
        answers.append(queued.parse_answer(connection.recv(64)))
        connection.close()
    assert failed and answers[0] != (0, 99) and answers[1] == (0, 99)
    assert [tree.read(number)[1].endswith(b"Fa\0Tsecond\0") for number in tree.todo()] == [True]
