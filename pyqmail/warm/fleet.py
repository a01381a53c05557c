"""The worker processes of a pool, by key: made when there is a job for one, ended when they have idled for long."""

import math
import os
import signal
import time
from collections.abc import Callable, Hashable, Iterable

from pyqmail.system.loop import Loop, Timer
from pyqmail.warm.spares import SPARE_S, Body, Spares, fork_workers
from pyqmail.warm.workers import Policy, WorkerLink, Workers

LOOKS_MAX = 40  # at a worker that should end, 50 ms apart
SWEEP_S = 0.25  # at least between two looks at the idle workers
SPARE = 16  # workers that may idle beyond the jobs allowed at once


class Fleet:
    """All workers of a pool. ``heard`` is called when one has said something, or has ended."""

    def __init__(self, loop: Loop, body: Body, policy: Policy, heard: Callable[[WorkerLink], None]) -> None:
        self._loop = loop
        self._body = body
        self._policy = policy
        self._heard = heard
        self._groups: dict[Hashable, Workers] = {}
        self._workers: dict[int, WorkerLink] = {}
        self._spares = Spares(body, policy.at_once)
        self._sweep_at = math.inf  # in monotonic seconds
        self._sweeper: Timer | None = None

    @property
    def workers(self) -> list[WorkerLink]:
        """Those that live."""
        return list(self._workers.values())

    def startable(self, key: Hashable) -> bool:
        """Whether a job for ``key`` finds a worker, or one may be made for it now."""
        group = self._groups.get(key)
        return group is None or group.startable(self._policy, time.monotonic())

    def startable_in(self, keys: Iterable[Hashable]) -> float:
        """The seconds after which that may be so for one of ``keys``."""
        groups = [group for group in map(self._groups.get, keys) if group is not None]
        soonest = min((group.next_fork for group in groups), default=0.0)
        return max(0.0, soonest - time.monotonic())

    def take(self, key: Hashable, affinity: Hashable) -> tuple[WorkerLink, bool]:
        """A worker for a job, and whether it was made for it. Raises OSError when none can be made."""
        group = self._groups.get(key)
        if group is None or not group.idle:
            return self._fork(key), True
        return group.choose(affinity), False

    def give_back(self, worker: WorkerLink) -> None:
        """Its job is done: it waits for the next one, or ends after its last."""
        worker.served += 1
        group = self._groups[worker.key]
        group.took(time.monotonic() - worker.since)
        if worker.served >= self._body.jobs_max:
            self.retire(worker)
        else:
            group.idle.append(worker)
            worker.since = time.monotonic()
            self._sweep_by(worker.since + group.rest_of_next(self._policy))

    def retire(self, worker: WorkerLink) -> None:
        """Let it end: its job socket is closed."""
        if self._workers.pop(worker.pid, None) is None:
            return
        group = self._groups[worker.key]
        group.all.remove(worker)
        if worker in group.idle:
            group.idle.remove(worker)
        if not group.all:
            del self._groups[worker.key]
        self._loop.remove_reader(worker.sock.fileno())
        worker.sock.close()
        reap(self._loop, worker.pid)

    def close(self) -> None:
        """Let those end that have no job."""
        for worker in self.workers:
            if worker.job is None:
                self.retire(worker)
        self._end_spares(math.inf)

    def _fork(self, key: Hashable) -> WorkerLink:
        if len(self._workers) + self._spares.most > self._policy.limit + SPARE:
            self._retire_one_idle()
        now = time.monotonic()
        if key is None or key in self._groups:
            ((pid, sock),) = fork_workers(self._body, (key,))
        else:
            pid, sock = self._spares.take(key, now)
            if self._spares.waiting:
                self._sweep_by(now + SPARE_S)
        worker = WorkerLink(pid, sock, key)
        self._workers[pid] = worker
        group = self._groups.setdefault(key, Workers())
        group.all.append(worker)
        group.pace(self._policy, now)
        self._loop.add_reader(sock.fileno(), lambda: self._heard(worker))
        return worker

    def _retire_one_idle(self) -> None:
        for group in self._groups.values():
            if group.idle:
                self.retire(group.idle[0])
                return

    def _sweep_by(self, when: float) -> None:
        """One timer for all idle workers: one for each job would pile up by the thousand."""
        if self._sweep_at <= when:
            return
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_at = when
        self._sweeper = self._loop.call_later(when - time.monotonic(), self._sweep)

    def _end_spares(self, now: float) -> None:
        for pid, sock in self._spares.rested(now):
            sock.close()
            reap(self._loop, pid)

    def _sweep(self) -> None:
        now = time.monotonic()
        self._sweep_at, self._sweeper = math.inf, None
        self._end_spares(now)
        next_at = now + SPARE_S if self._spares.waiting else math.inf
        for group in list(self._groups.values()):
            ended, again = group.rest(self._policy, now)
            next_at = min(next_at, again)
            for worker in ended:
                self.retire(worker)
        if next_at < math.inf:
            self._sweep_by(max(next_at, now + SWEEP_S))


def reap(loop: Loop, pid: int, looks: int = 0) -> None:
    """Collect a worker whose socket is closed; it ends by itself, or its user has stopped it: then it is killed."""
    try:
        found, _ = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
    if found == 0:
        if looks == LOOKS_MAX:
            os.kill(pid, signal.SIGKILL)  # not collected yet, so the number is still its own
        loop.call_later(0.05, lambda: reap(loop, pid, looks + 1))
