"""A shared worker of qmail-queued that accepts for itself, driven in this process."""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Protocol

import pytest

from pyqmail.intake import acceptance as module
from pyqmail.intake import worker
from pyqmail.intake.acceptance import LEASED, NO_LEASE, OwnDoor
from pyqmail.intake.pulse import Pulse
from pyqmail.policy.accounts import Accounts
from pyqmail.protocol import queued
from pyqmail.spool.enqueue import Spool
from pyqmail.spool.layout import Layout
from pyqmail.system.accepting import accept_number
from pyqmail.warm import wire
from tests.spool.queue_tree import Tree

ACCOUNTS = Accounts([1, 2, 3, 0, 4, 5, 6, 7], [8, 9], b"alias")
ME = os.geteuid()
FIRST = 5_000_000
WHOLE = queued.format_whole(b"m\n", b"Fa\0Tb\0\0", serial=True) or b""


class Bench:
    """A worker at a door, its parent's end of the job socket, and clients of that door."""

    def __init__(self, tree: Tree, *, most: int, uids: set[int], lease: tuple[int, int]) -> None:
        self.path = str(tree.home / "run/own")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.setblocking(False)
        self.parent, jobs = wire.pair()
        self.parent.setblocking(False)
        self.pulse = Pulse()
        spool, door = Spool(Layout(str(tree.home), 23), ACCOUNTS), OwnDoor(self.listener.dup(), uids, most, lease)
        self.worker = worker.Worker(spool, jobs, self.pulse, alone=False, door=door)
        self.worker.loop.add_reader(jobs.fileno(), self.worker._take_jobs)
        self.clients: list[socket.socket] = []
        self.jobs = jobs
        self.tell(queued.ACCEPT)

    def tell(self, lease: tuple[int, int]) -> None:
        """Say a word of the parent's, or give numbers."""
        wire.send_record(self.parent, queued.format_lease(*lease))
        self.turn()

    def accepts(self) -> bool:
        return self.worker.acceptance is not None and self.worker.acceptance._accepting

    def connect(self, record: bytes = b"") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.path)
        sock.settimeout(10)
        if record:
            sock.send(record)
        self.clients.append(sock)
        return sock

    def turn(self) -> None:
        """One turn of the worker's life, which finds something to do or nothing."""
        self.worker.loop.run_once(0)
        self.worker._commit(self.worker.ready)
        self.worker.ready = []
        assert self.worker.acceptance is not None
        self.worker.acceptance.settle()
        self.worker.loop.run_once(0)

    def told(self) -> list[int]:
        """What the parent has heard."""
        heard: list[int] = []
        try:
            while record := self.parent.recv(1024):
                heard += queued.parse_freed(record)
        except BlockingIOError:
            pass
        return heard

    def close(self) -> None:
        for sock in (*self.clients, self.listener, self.parent):
            sock.close()
        self.turn()  # it leaves the door
        self.jobs.close()
        self.worker.loop.close()
        for fd in self.worker.reader.private:
            os.close(fd)


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=True)
    yield made
    made.close()


class Make(Protocol):
    """Makes a bench."""

    def __call__(self, *, uids: set[int] = ..., lease: tuple[int, int] = ...) -> Bench: ...


@pytest.fixture
def made(tree: Tree) -> Iterator[Make]:
    benches: list[Bench] = []

    def make(*, uids: set[int] = {ME}, lease: tuple[int, int] = (FIRST, FIRST + LEASED)) -> Bench:  # noqa: B006
        benches.append(Bench(tree, most=2, uids=uids, lease=lease))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(made: Make) -> Bench:
    return made()


def test_a_message_is_queued_for_who_has_connected_and_the_parent_hears_nothing(tree: Tree, bench: Bench) -> None:
    connection = bench.connect(WHOLE)
    bench.turn()
    assert queued.parse_answer(connection.recv(64)) == (0, FIRST)
    assert connection.recv(64) == b""
    assert tree.read(tree.todo()[0])[1] == b"u%d\0p%d\0Fa\0Tb\0" % (ME, FIRST)
    assert bench.told() == [] and bench.pulse.door() == (1, 0)


def test_what_waits_is_committed_together_as_many_as_may_be(tree: Tree, bench: Bench) -> None:
    connections = [bench.connect(WHOLE) for _ in range(5)]
    bench.worker.loop.run_once(0)
    assert len(bench.worker.ready) == 2
    bench.worker._commit(bench.worker.ready)
    bench.worker.ready = []
    for _ in range(2):
        bench.turn()
    answers = [queued.parse_answer(connection.recv(64)) for connection in connections]
    assert answers == [(0, FIRST + number) for number in range(5)]
    assert bench.told() == [] and len(tree.todo()) == 5


def test_with_as_many_slow_ones_as_it_may_have_it_stops_and_says_so_and_of_each_that_is_over(bench: Bench) -> None:
    slow = [bench.connect() for _ in range(3)]
    bench.turn()
    bench.turn()
    assert bench.pulse.door() == (2, 2) and bench.told() == [queued.AWAY]
    slow[0].close()
    bench.turn()
    assert bench.pulse.door() == (2, 1) and bench.told() == [queued.LEFT]
    bench.tell(queued.ACCEPT)
    bench.turn()
    assert bench.pulse.door() == (3, 2) and bench.told() == [queued.AWAY]  # the third has its place


def test_it_stops_when_it_is_asked_to(bench: Bench) -> None:
    bench.tell(queued.REST)
    assert bench.told() == [queued.AWAY]
    connection = bench.connect(WHOLE)
    bench.turn()
    assert bench.pulse.door() == (0, 0)
    bench.tell(queued.REST)
    bench.tell(queued.ACCEPT)
    bench.turn()
    assert queued.parse_answer(connection.recv(64)) == (0, FIRST) and bench.told() == []


def test_it_asks_for_numbers_in_time_and_stops_without_any(made: Make) -> None:
    bench = made(lease=(FIRST, FIRST + 2))
    first = [bench.connect(WHOLE) for _ in range(3)]
    bench.turn()
    bench.turn()
    assert bench.told() == [queued.LEASE, queued.AWAY]
    bench.tell((FIRST + 9, FIRST + 11))
    assert bench.pulse.door() == (2, 0)
    bench.tell(queued.ACCEPT)
    bench.turn()
    answers = [queued.parse_answer(connection.recv(64)) for connection in first]
    assert answers == [(0, FIRST), (0, FIRST + 1), (0, FIRST + 9)]
    assert bench.told() == [queued.LEASE]


def test_the_next_lease_waits_until_this_one_is_used_up(made: Make) -> None:
    bench = made(lease=(FIRST, FIRST + 2))
    numbers = []
    leases = [(FIRST + 50, FIRST + 52), (FIRST + 90, FIRST + 92)]
    for _ in range(5):
        connection = bench.connect(WHOLE)
        bench.turn()
        answer = queued.parse_answer(connection.recv(64))
        assert answer is not None and answer[0] == 0
        numbers.append(answer[1] - FIRST)
        if queued.LEASE in bench.told() and leases:
            bench.tell(leases.pop(0))
    assert numbers == [0, 1, 50, 51, 90]


def test_without_numbers_it_accepts_nothing_until_it_has_some(made: Make) -> None:
    bench = made(lease=NO_LEASE)
    connection = bench.connect(WHOLE)
    bench.turn()
    assert bench.pulse.door() == (0, 0) and bench.told() == [queued.AWAY]
    bench.tell((FIRST, FIRST + 1))
    bench.tell(queued.ACCEPT)
    bench.turn()
    assert queued.parse_answer(connection.recv(64)) == (0, FIRST)


def test_a_knock_asks_for_nothing_but_a_turn(bench: Bench) -> None:
    before = bench.pulse.read()
    bench.tell(queued.KNOCK)
    assert bench.pulse.read()[1] == before[1] + 1
    assert bench.accepts() and bench.told() == []


def test_who_should_not_have_come_is_answered_and_not_closed_and_the_worker_retires(tree: Tree, made: Make) -> None:
    bench = made(uids={ME + 1})
    connection = bench.connect(WHOLE)
    bench.turn()
    assert queued.parse_answer(connection.recv(64)) == (53, 0)
    connection.setblocking(False)
    with pytest.raises(BlockingIOError):
        connection.recv(64)
    assert queued.RETIRING in bench.told() and not bench.accepts()
    assert tree.todo() == [] and tree.messages() == []


def test_it_leaves_the_door_when_its_parent_has_gone(bench: Bench) -> None:
    bench.parent.close()
    bench.turn()
    assert bench.worker.parent.gone and not bench.accepts()
    bench.listener.close()
    with pytest.raises(ConnectionRefusedError):
        bench.connect()


def test_nobody_comes_by_a_door_that_the_parent_has_shut(tree: Tree, bench: Bench) -> None:
    connection = bench.connect(WHOLE)
    bench.listener.shutdown(socket.SHUT_RDWR)
    bench.turn()
    assert queued.parse_answer(connection.recv(64)) == (0, FIRST)  # he was there before
    with pytest.raises(ConnectionRefusedError):
        bench.connect()
    bench.turn()


def test_without_descriptors_it_rests_until_it_is_told_to_go_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = accept_number
    failed: list[socket.socket] = []

    def lacking(listener: socket.socket) -> tuple[int, object]:
        if not failed:
            failed.append(listener)
            raise OSError(errno.EMFILE, "too many")
        return real(listener)

    monkeypatch.setattr(module, "accept_number", lacking)
    connection = bench.connect(WHOLE)
    bench.turn()
    assert failed and bench.told() == [queued.AWAY] and not bench.accepts()
    bench.tell(queued.ACCEPT)
    bench.turn()
    assert queued.parse_answer(connection.recv(64)) == (0, FIRST)
