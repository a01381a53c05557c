"""The parent's place at the door of our own programs: where it is when, with workers that are only their pulse."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from pyqmail.intake.leases import look_round
from pyqmail.intake.overflow import Overflow
from pyqmail.intake.pulse import BUSY, Pulse
from pyqmail.intake.shared import Shared
from pyqmail.intake.workers import WorkerLink
from pyqmail.protocol import queued
from pyqmail.system.loop import Loop
from pyqmail.warm import wire


class Place:
    """A door, workers of which each is its record, and the parent."""

    def __init__(self, path: Path, *, own_most: int = 2) -> None:
        self.path = str(path / "own")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.setblocking(False)
        self.loop = Loop()
        self.workers: list[WorkerLink] = []
        self.ticks = self.accepted = 0
        self.own_most, self.somebody_waits, self.may = own_most, False, True
        self.clients: list[socket.socket] = []
        self.ends: list[socket.socket] = []  # of the workers
        self.overflow = Overflow(self.loop, self.listener, cast(Shared, self), self.accept, self.tick)

    # what it asks of intake/shared

    def links(self) -> list[WorkerLink]:
        return self.workers

    def waiting(self) -> bool:
        return self.somebody_waits

    def may_lend(self, _link: WorkerLink) -> bool:
        return self.may

    def tick(self) -> None:
        self.ticks += 1

    def accept(self) -> None:
        """The parent takes a connection."""
        self.listener.accept()[0].close()
        self.accepted += 1

    def worker(self) -> WorkerLink:
        """One more worker, which accepts."""
        ours, theirs = wire.pair()
        link = WorkerLink(len(self.workers) + 1, ours, Pulse(), None, -1)
        self.workers.append(link)
        self.overflow.rejoin()
        self.overflow.look()
        record = wire.receive_record(theirs)
        assert link.lent and record == (queued.format_lease(*queued.ACCEPT), [])
        self.ends.append(theirs)
        return link

    def stop(self, link: WorkerLink) -> None:
        """``link`` has stopped to accept, and may not do so again."""
        link.lent = self.may = False
        self.overflow.lost()

    def serve(self, link: WorkerLink) -> None:
        """``link`` has accepted what waits."""
        self.listener.accept()[0].close()
        link.pulse.show_door(link.pulse.door()[0] + 1, 0)

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.path)
        self.clients.append(sock)
        self.loop.run_once(0)

    def close(self) -> None:
        for sock in (*self.clients, *self.ends, self.listener, *(link.socket for link in self.workers)):
            sock.close()
        self.loop.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_behind_its_workers_it_has_nothing_to_look_at(place: Place) -> None:
    place.worker()
    assert not place.overflow.watching and place.accepted == 0


def test_when_all_are_busy_it_leaves_the_door_to_them_while_they_go_on(place: Place) -> None:
    link = place.worker()
    place.connect()
    assert place.overflow.watching and place.accepted == 0
    ticks = place.ticks
    place.serve(link)
    place.overflow.look()
    place.connect()
    assert place.accepted == 0 and place.ticks == ticks and place.overflow.watching
    place.serve(link)
    place.overflow.look()
    place.overflow.look()  # nothing more has come
    assert not place.overflow.watching


def test_what_nobody_takes_for_a_second_it_takes(place: Place) -> None:
    place.worker()
    place.connect()
    place.overflow.look()
    place.loop.run_once(0)
    assert place.accepted == 1


def test_when_no_worker_accepts_it_does_at_once(place: Place) -> None:
    links = [place.worker(), place.worker()]
    place.connect()
    for link in links:
        assert place.accepted == 0
        place.stop(link)
        place.loop.run_once(0)
    assert place.accepted == 1 and place.overflow.watching


def test_a_worker_that_may_accepts_again_and_the_parent_leaves_the_door_to_it(place: Place) -> None:
    link = place.worker()
    place.stop(link)
    place.may = True
    place.overflow.look()
    assert link.lent
    place.connect()
    assert place.accepted == 0


def test_a_silent_worker_does_not_get_the_right_back(place: Place) -> None:
    link = place.worker()
    place.stop(link)
    place.may, link.quiet = True, 1
    place.overflow.look()
    assert not link.lent


def test_without_workers_it_accepts_until_there_are_some(place: Place) -> None:
    place.overflow.rejoin()
    place.connect()
    assert place.accepted == 1 and place.overflow.watching
    place.worker()
    place.connect()
    assert place.accepted == 1


def test_it_goes_on_while_somebody_waits_for_a_slot_or_no_worker_goes_on(place: Place) -> None:
    link = place.worker()
    place.connect()
    place.overflow.look()
    link.quiet = 1
    place.overflow.look()
    place.connect()
    place.loop.run_once(0)
    assert place.accepted == 2
    link.quiet, place.somebody_waits = 0, True
    place.overflow.look()
    place.connect()
    assert place.accepted == 3
    place.somebody_waits = False
    place.overflow.look()
    place.connect()
    assert place.accepted == 3


def test_the_only_one_who_may_accept_does_so_for_ever_and_looks_at_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, own_most=0)
    place.overflow.rejoin()
    place.connect()
    assert place.accepted == 1 and not place.overflow.watching
    place.overflow.look()
    place.connect()
    assert place.accepted == 2
    place.close()


def test_without_descriptors_it_rests_and_tries_again(place: Place) -> None:
    place.overflow.rejoin()
    place.overflow.pause(0.01)
    place.connect()
    assert place.accepted == 0
    while not place.accepted:
        place.loop.run_once(10)


def test_a_door_that_is_shut_stays_shut(place: Place) -> None:
    place.worker()
    place.overflow.close()
    place.overflow.look()
    place.overflow.rejoin()
    place.overflow.lost()
    with pytest.raises(ConnectionRefusedError):
        place.connect()


def test_who_shows_nothing_while_another_works_is_asked_for_a_turn(place: Place) -> None:
    pairs = [wire.pair() for _ in range(3)]
    links = [WorkerLink(pid, ours, Pulse(), None, -1) for pid, (ours, _) in enumerate(pairs, 1)]
    look_round(links)  # nobody has done anything
    links[0].pulse.show(BUSY)
    links[2].pulse.show_door(1, 1)  # at work with something of its own: its silence is seen
    look_round(links)
    look_round(links)
    asked = []
    for ours, theirs in pairs:
        ours.close()
        record = wire.receive_record(theirs)
        asked.append(record is not None and record[0] == queued.format_lease(*queued.KNOCK))
        theirs.close()
    assert asked == [False, True, False] and links[1].sent == 1 and links[1].at_work()
