"""Where a stranger's next connection goes: given these workers, these limits and this time."""

import socket
from collections.abc import Callable
from typing import cast

import pytest

from pyqmail.intake import places
from pyqmail.intake.places import FORK_SECONDS, IN_HAND, PLACES, TOTAL, Group, Places
from pyqmail.intake.pulse import Pulse
from pyqmail.intake.workers import WorkerLink, Workers
from pyqmail.policy.accounts import Accounts
from pyqmail.system.loop import Loop

ACCOUNTS = Accounts([1, 2, 3, 0, 4, 5, 6, 7], [8, 9], b"alias")
ANN, BOB = 5000, 6000  # strangers
QMAILD = 2


class StillPulse:
    """A worker that has taken so many jobs."""

    def __init__(self) -> None:
        self.taken = 0

    def read(self) -> tuple[int, int, int]:
        return 0, self.taken, 0


class Makers:
    """Makes workers that are nothing but their record; ``able`` to or not."""

    def __init__(self) -> None:
        self.accounts = ACCOUNTS
        self.able = True
        self.replaced: list[WorkerLink] = []

    def start(self, uid: int, share: int) -> WorkerLink | None:
        return worker(uid, share) if self.able else None

    def replace(self, link: WorkerLink) -> None:
        self.replaced.append(link)


class Later:
    """A loop that only notes what it would call later."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.calls.append((seconds, call))


class Office:
    """The places, with a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("pyqmail.intake.places.time.monotonic", lambda: self.now)
        self.workers, self.loop = Makers(), Later()
        self.groups: dict[int, Group] = {}
        self.looked_again: list[Group] = []
        self.slots = 100
        self.places = Places(
            cast(Loop, self.loop), cast(Workers, self.workers), lambda uid: self.slots, self.groups, self._again
        )

    def _again(self, group: Group) -> None:
        self.looked_again.append(group)

    def group(self, key: int, *links: WorkerLink) -> Group:
        group = self.groups[key] = Group(key)
        group.links += links
        return group


def worker(uid: int, share: int, *, jobs: int = 0, sent: int = 0) -> WorkerLink:
    link = WorkerLink(1, cast(socket.socket, None), cast(Pulse, StillPulse()), uid, share)
    link.jobs = dict.fromkeys(range(jobs), uid)
    link.sent = sent
    return link


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    return Office(monkeypatch)


def test_the_first_connection_gets_a_worker_of_its_own_uid(office: Office) -> None:
    group = office.group(ANN)
    link = office.places.link_for(group, ANN)
    assert link is not None and (link.uid, link.share) == (ANN, ANN)
    assert group.links == [link] and group.forked == office.now


def test_of_two_workers_the_one_with_less_in_hand_has_the_next(office: Office) -> None:
    busy, free = worker(ANN, ANN, jobs=3, sent=3), worker(ANN, ANN, jobs=1, sent=1)
    assert office.places.link_for(office.group(ANN, busy, free), ANN) is free


@pytest.mark.parametrize("state", ["retiring", "silent"])
def test_a_worker_that_is_going_has_no_more(office: Office, state: str) -> None:
    old = worker(ANN, ANN, jobs=1)
    old.retiring, old.quiet = state == "retiring", 2 if state == "silent" else 0
    group = office.group(ANN, old)
    link = office.places.link_for(group, ANN)
    assert link is not None and link is not old


def test_a_uid_with_all_its_submissions_open_waits(office: Office) -> None:
    office.slots = 2
    group = office.group(ANN, worker(ANN, ANN, jobs=2))
    assert office.places.link_for(group, ANN) is None
    assert office.loop.calls == []


def test_a_worker_that_has_not_taken_what_it_has_is_looked_at_again_once(office: Office) -> None:
    group = office.group(ANN, worker(ANN, ANN, sent=IN_HAND))
    assert office.places.link_for(group, ANN) is None
    assert office.places.link_for(group, ANN) is None
    ((seconds, call),) = office.loop.calls
    assert seconds == places.TAKING_SECONDS
    call()
    assert office.looked_again == [group] and not group.postponed


def test_two_workers_of_one_share_are_not_made_at_once(office: Office) -> None:
    group = office.group(ANN)
    assert office.places.link_for(group, ANN) is not None
    office.now += FORK_SECONDS / 4
    assert office.places.link_for(group, ANN + 1) is None  # a subordinate uid of the same share
    assert office.loop.calls[0][0] == pytest.approx(FORK_SECONDS * 3 / 4)
    office.now += FORK_SECONDS
    assert office.places.link_for(group, ANN + 1) is not None


def test_in_a_full_share_the_worker_that_has_been_idle_for_longest_goes(office: Office) -> None:
    links = [worker(ANN + n, ANN) for n in range(PLACES)]
    links[-1].idle_ticks = 5
    group = office.group(ANN, *links)
    assert office.places.link_for(group, ANN + PLACES) is None
    assert office.workers.replaced == [links[-1]]


def test_nobody_is_ended_who_works_or_while_a_place_is_being_made(office: Office) -> None:
    busy = [worker(ANN + n, ANN, jobs=1) for n in range(PLACES)]
    group = office.group(ANN, *busy)
    assert office.places.link_for(group, ANN + PLACES) is None
    busy[0].jobs, busy[0].retiring = {}, True
    assert office.places.link_for(group, ANN + PLACES) is None
    assert office.workers.replaced == []


def test_all_strangers_have_so_many_places_and_the_systems_users_others(office: Office) -> None:
    for n in range(TOTAL):
        office.group(ANN + n, worker(ANN + n, ANN + n, jobs=1))
    assert office.places.link_for(office.group(BOB), BOB) is None
    assert office.places.link_for(office.group(QMAILD), QMAILD) is not None


def test_where_no_process_can_be_made_the_share_is_looked_at_in_a_second(office: Office) -> None:
    office.workers.able = False
    group = office.group(ANN)
    assert office.places.link_for(group, ANN) is None
    assert [seconds for seconds, _ in office.loop.calls] == [1.0] and group.links == []


def test_a_service_that_stops_makes_no_workers(office: Office) -> None:
    office.places.stopping = True
    assert office.places.link_for(office.group(ANN), ANN) is None
    assert office.loop.calls == []
