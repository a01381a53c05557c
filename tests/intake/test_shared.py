"""Slots of our own programs: what workers may accept counts, and what they do not use is for who waits."""

import socket
from collections.abc import Iterator
from typing import cast

import pytest

from pyqmail.intake.leases import lend
from pyqmail.intake.pulse import Pulse
from pyqmail.intake.shared import OWN_MAX, Shared, own_most, worker_count
from pyqmail.intake.workers import WorkerLink, Workers
from pyqmail.protocol import queued
from pyqmail.system.loop import Loop
from pyqmail.warm import wire

ALIAS, DAEMON = 1, 2
SLOTS = {ALIAS: 8, DAEMON: 400}


class Office:
    """Two workers that are only their records, and who waits for them."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.links = [self._worker() for _ in range(2)]
        self.given: list[WorkerLink] = []
        self.loop = Loop()
        self.shared = Shared(self.loop, cast(Workers, self), lambda: 7, lambda uid: SLOTS[uid], 3)
        self.shared.own_most = 2

    def _worker(self) -> WorkerLink:
        ours, theirs = wire.pair()
        self.ends.append(theirs)
        return WorkerLink(len(self.ends), ours, Pulse(), None, -1)

    def give(self, link: WorkerLink, uid: int, connection: socket.socket, _serial: int) -> None:
        """A worker gets a submission."""
        link.jobs[len(self.given) + 1] = uid
        self.given.append(link)
        connection.close()

    def take(self, uid: int, count: int) -> list[socket.socket]:
        """``count`` programs of ``uid`` connect; their ends."""
        ends = []
        for _ in range(count):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.shared.take(uid, theirs)
            ends.append(ours)
        return ends

    def heard(self) -> list[list[tuple[int, int]]]:
        """What each worker has been told."""
        words: list[list[tuple[int, int]]] = []
        for end in self.ends:
            end.setblocking(False)
            words.append([])
            try:
                while record := wire.receive_record(end):
                    words[-1].append(queued.parse_lease(record[0]))
            except BlockingIOError:
                pass
        return words

    def away(self, link: WorkerLink, *, has: int) -> None:
        """``link`` says that it accepts nothing more, and has so many connections of its own."""
        link.lent = link.recalled = False
        link.pulse.show_door(has, has)

    def close(self) -> None:
        for sock in (*self.ends, *(link.socket for link in self.links)):
            sock.close()
        self.loop.close()


@pytest.fixture
def office() -> Iterator[Office]:
    made = Office()
    yield made
    made.close()


def test_workers_that_accept_count_with_all_that_they_may_have(office: Office) -> None:
    for link in office.links:
        lend(link)
    ends = office.take(ALIAS, 6)
    assert len(office.given) == 4 and office.shared.waiting()
    office.take(DAEMON, 1)
    assert len(office.given) == 5  # he has more
    for end in ends:
        end.close()


def test_what_they_do_not_use_is_for_who_waits(office: Office) -> None:
    for link in office.links:
        lend(link)
    office.heard()
    office.take(ALIAS, 7)
    assert office.heard() == [[queued.REST], [queued.REST]]  # and not once for each
    assert len(office.given) == 4
    office.away(office.links[0], has=1)
    office.shared.advance()
    assert len(office.given) == 5
    office.away(office.links[1], has=0)
    office.shared.advance()
    assert len(office.given) == 7 and not office.shared.waiting()


def test_who_waits_in_vain_is_refused_beyond_a_bound(office: Office) -> None:
    ends = office.take(ALIAS, 12)
    assert len(office.given) == 8
    assert queued.parse_answer(ends[-1].recv(64)) == (53, 0)


def test_a_worker_may_accept_again_when_that_leaves_every_uid_within_its_slots(office: Office) -> None:
    first, second = office.links
    office.take(ALIAS, 4)
    assert office.shared.may_lend(first)
    lend(first)
    assert office.shared.may_lend(second)
    lend(second)
    office.away(second, has=0)
    office.take(ALIAS, 1)
    assert not office.shared.may_lend(second)  # 5 and 2 and 2
    office.shared.freed(ALIAS)
    assert office.shared.may_lend(second)
    office.away(second, has=2)
    assert not office.shared.may_lend(second)  # it has too many slow ones
    office.away(second, has=1)
    assert office.shared.may_lend(second)
    second.wants_lease = True
    assert not office.shared.may_lend(second)


def test_nobody_accepts_for_himself_while_somebody_waits(office: Office) -> None:
    office.take(ALIAS, 9)
    assert office.shared.waiting() and not office.shared.may_lend(office.links[0])


@pytest.mark.parametrize(("slots", "most"), [(1, 0), (worker_count() * 2, 1), (100_000, OWN_MAX)])
def test_workers_have_half_of_the_slots_at_most(slots: int, most: int) -> None:
    assert own_most(slots) == most
    assert own_most(slots) * worker_count() * 2 <= slots
