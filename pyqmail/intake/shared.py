"""Submissions of our own warm programs: a few workers serve them all, and each uid has its slots."""

import _socket
import os
import socket
from collections import deque
from collections.abc import Callable

from pyqmail.exits import QueueExit
from pyqmail.intake.leases import recall
from pyqmail.intake.workers import WorkerLink, Workers
from pyqmail.protocol import queued
from pyqmail.system.loop import Loop

WORKERS_MAX = 4  # measured: enough to keep a disk's journal busy; more than processors share fewer syncs
OWN_MAX = 64  # connections that a worker has accepted for itself: as many as it commits at once
RESTART_SECONDS = 1.0  # before another try when there is no worker at all


def own_most(slots: int) -> int:
    """How many connections each worker may accept for itself, where no uid has fewer than ``slots``.

    Half of them in all, so that the parent has the other half for whom it serves; 0 where there are too few.
    """
    return min(OWN_MAX, slots // (2 * worker_count()))


def worker_count() -> int:
    """How many workers read and commit the submissions of our own programs on this machine."""
    return max(2, min(WORKERS_MAX, os.cpu_count() or 2))


class Submitter:
    """A uid's account of slots."""

    __slots__ = ("open", "waiting")

    def __init__(self) -> None:
        self.open = 0
        self.waiting: deque[_socket.socket] = deque()


class Shared:
    """The shared workers and who waits for them."""

    def __init__(
        self, loop: Loop, workers: Workers, serial: Callable[[], int], slots: Callable[[int], int], waiting: int
    ) -> None:
        self._loop = loop
        self._workers = workers
        self._serial = serial
        self._slots = slots
        self._waiting_max = waiting
        self._submitters: dict[int, Submitter] = {}
        self._starting = False
        self.stopping = False
        self.own_most = 0  # connections that each worker may accept for itself
        self.changed: Callable[[], None] = lambda: None  # there are other workers than before

    def start(self) -> None:
        """Have as many workers as there should be, now or a little later."""
        self._starting = False
        if self.stopping:
            return
        while len(self._links()) < worker_count():
            if self._workers.start(None, -1) is None:
                self._start_later()
                break
        self.changed()
        self.advance()

    def take(self, uid: int, connection: _socket.socket) -> None:
        """See to a connection of one of our own programs."""
        submitter = self._submitters.setdefault(uid, Submitter())
        if self._has_slot(uid, submitter) and (link := self._link()) is not None:
            submitter.open += 1
            self._workers.give(link, uid, connection, self._serial())
        elif len(submitter.waiting) < self._waiting_max:
            submitter.waiting.append(connection)
        else:
            _refuse(connection)
            return
        if submitter.waiting:
            recall(self.links())  # what they do not use is for who waits

    def freed(self, uid: int) -> None:
        """A slot of ``uid`` is free: the first of its waiting submissions takes it."""
        submitter = self._submitters.get(uid)
        if submitter is not None:
            submitter.open -= 1
            self._advance(uid)

    def ended(self, link: WorkerLink) -> None:
        """A worker has ended: what it was not sent waits again, and another takes its place."""
        while link.unsent:
            _, uid, connection = link.unsent.pop()
            self._submitters.setdefault(uid, Submitter()).waiting.appendleft(connection)
        if not self._links():
            self._start_later()
            self.changed()
        else:
            self.start()

    def stop(self) -> None:
        """Nobody waits any more."""
        self.stopping = True
        for submitter in self._submitters.values():
            while submitter.waiting:
                submitter.waiting.popleft().close()

    def waiting(self) -> bool:
        """Whether anybody waits for a slot."""
        return any(submitter.waiting for submitter in self._submitters.values())

    def _has_slot(self, uid: int, submitter: Submitter) -> bool:
        return submitter.open + self._taken() < self._slots(uid)

    def _taken(self) -> int:
        """What workers have accepted for themselves; of those that go on accepting, all that they may."""
        return sum(self.own_most if link.lent else link.pulse.door()[1] for link in self.links())

    def may_lend(self, link: WorkerLink) -> bool:
        """Whether ``link`` may accept for itself again and all limits hold; not while anybody waits for a slot."""
        mine = link.pulse.door()[1]
        if self.waiting() or link.retiring or link.wants_lease or mine > self.own_most // 2:
            return False
        taken = self._taken() - mine + self.own_most
        return all(submitter.open + taken <= self._slots(uid) for uid, submitter in self._submitters.items())

    def advance(self) -> None:
        """Whoever waits and may have a slot now gets it."""
        for uid in list(self._submitters):
            self._advance(uid)

    def links(self) -> list[WorkerLink]:
        """The shared workers, those that retire too."""
        return [link for link in self._workers.links if link.uid is None]

    def _links(self) -> list[WorkerLink]:
        return [link for link in self.links() if not link.retiring]

    def _link(self) -> WorkerLink | None:
        return min(self._links(), key=lambda link: len(link.jobs) + link.pulse.door()[1], default=None)

    def _start_later(self) -> None:
        if not self._starting:
            self._starting = True
            self._loop.call_later(RESTART_SECONDS, self.start)

    def _advance(self, uid: int) -> None:
        submitter = self._submitters[uid]
        while submitter.waiting and self._has_slot(uid, submitter) and (link := self._link()) is not None:
            submitter.open += 1
            self._workers.give(link, uid, submitter.waiting.popleft(), self._serial())
        if not submitter.open and not submitter.waiting:
            del self._submitters[uid]


def _refuse(connection: _socket.socket) -> None:
    """Answer 53; what our own programs have sent may be closed here."""
    try:
        record = queued.format_answer(QueueExit.WRITE_ERROR, 0)
        connection.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        pass  # it has gone
    connection.close()
