"""The parent's side: forked workers by key (a uid and gid, say), each serving one job at a time.

A worker is forked for a key, told to become what the key says, and given jobs of that key only. A worker that dies
before it took a job is replaced and the job sent again; one that dies with a job makes that job's status None.
"""

import gc
import math
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from pyqmail.system.loop import Loop, Timer
from pyqmail.system.processes import kill_family
from pyqmail.warm.wire import pair, send_record
from pyqmail.warm.worker import JOB, RESULT, Serve, Wait, enter, serve_jobs
from pyqmail.warm.workers import Job, Policy, WorkerLink, Workers

Done = Callable[[int | None], None]
Prepare = Callable[[Hashable], None]

LOOKS_MAX = 40  # at a worker that should end, 50 ms apart
SWEEP_S = 0.25  # at least between two looks at the idle workers
SPARE = 16  # workers that may idle beyond the jobs allowed at once


@dataclass(frozen=True, slots=True)
class Body:
    """What a worker is: how it becomes its key's, and how it serves."""

    serve: Serve
    prepare: Prepare
    title: str
    jobs_max: int
    wait: Wait | None


class Pool:
    """Workers that run ``serve(payload, fds) -> status`` after ``prepare(key)`` has changed who they are.

    ``limit`` is the number of jobs at once; at most ``limit + SPARE`` workers live. ``prepare`` runs in the fresh
    child after all inherited descriptors are closed, and must raise if it cannot become what the key says. A key has
    ``paced_from`` workers as soon as it has jobs for them, further ones ``pace_s`` seconds after the last was made, or
    SHORT_PACE times that while its jobs are below ``short_s``: one is then done by a busy worker sooner than by a new
    one, even on a busy machine.
    One idle worker of a key is kept for ``idle_s`` seconds, others for ``surplus_s``.
    """

    def __init__(
        self,
        loop: Loop,
        serve: Serve,
        *,
        prepare: Prepare,
        limit: int,
        title: str,
        jobs_max: int = 1000,
        idle_s: float = 60.0,
        surplus_s: float = 60.0,
        wait: Wait | None = None,
        pace_s: float = 0.0,
        paced_from: int = 8,
        short_s: float = 0.3,
    ) -> None:
        self._loop = loop
        self._body = Body(serve, prepare, title, jobs_max, wait)
        self._pacing = False
        self._policy = Policy(limit, idle_s, surplus_s, pace_s, paced_from, short_s)
        self._groups: dict[Hashable, Workers] = {}
        self._workers: dict[int, WorkerLink] = {}
        self._waiting: deque[tuple[Hashable, Job]] = deque()
        self._count = 0
        self._sweep_at = math.inf  # in monotonic seconds
        self._sweeper: Timer | None = None
        self.busy = 0

    def submit(
        self, key: Hashable, payload: bytes, fds: tuple[int, ...], done: Done, *, affinity: Hashable = None
    ) -> int | None:
        """Run a job; the pool closes ``fds`` when they are handed over. ``done`` gets its status, None if it died.

        Of the idle workers one whose last job was ``affinity`` is the same is preferred: it may still be connected.
        Returns the process of the worker that took it, None while it waits for one.
        Raises OSError when no worker can be made; the descriptors are then still the caller's.
        """
        self._count += 1
        job = Job(self._count, payload, fds, done, affinity)
        if self.busy >= self._policy.limit or not self._startable(key):
            self._waiting.append((key, job))
            self._pace()
            return None
        return self._start(key, job)

    @property
    def submitted(self) -> int:
        """The number of the job that was submitted last."""
        return self._count

    def stop(self, number: int) -> None:
        """End job ``number``: its worker is killed, and what that has started; its status is None."""
        for waiting in self._waiting:
            if waiting[1].number == number:
                self._waiting.remove(waiting)
                for fd in waiting[1].fds:
                    os.close(fd)
                waiting[1].done(None)
                return
        for worker in self._workers.values():
            if worker.job is not None and worker.job.number == number:
                kill_family(worker.pid)
                return

    def pids(self) -> list[int]:
        """The processes of the live workers."""
        return list(self._workers)

    def close(self) -> None:
        """Let the idle workers end: their job sockets are closed."""
        for worker in list(self._workers.values()):
            if worker.job is None:
                self._retire(worker)

    def _startable(self, key: Hashable) -> bool:
        """Whether a job for ``key`` finds a worker, or one may be made for it now."""
        group = self._groups.get(key)
        return group is None or group.startable(self._policy, time.monotonic())

    def _pace(self) -> None:
        """See to it that a job that waits only for a worker is looked at when one may be made."""
        if self._waiting and self.busy < self._policy.limit and not self._pacing:
            self._pacing = True
            groups = [group for group in map(self._groups.get, {key for key, _ in self._waiting}) if group is not None]
            soonest = min((group.next_fork for group in groups), default=0.0)
            self._loop.call_later(max(0.0, soonest - time.monotonic()), self._paced)

    def _paced(self) -> None:
        self._pacing = False
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start what waits and can, each key's jobs in their order."""
        passed: list[tuple[Hashable, Job]] = []
        while self._waiting and self.busy < self._policy.limit:
            key, waiting = self._waiting.popleft()
            if not self._startable(key):
                passed.append((key, waiting))
                continue
            try:
                self._start(key, waiting)
            except OSError:
                for fd in waiting.fds:
                    os.close(fd)
                waiting.done(None)
        self._waiting.extendleft(reversed(passed))
        self._pace()

    def _start(self, key: Hashable, job: Job) -> int:
        while True:
            group = self._groups.get(key)
            fresh = group is None or not group.idle
            worker = self._fork(key) if group is None or not group.idle else group.choose(job.affinity)
            try:
                send_record(worker.sock, JOB.pack(job.number) + job.payload, job.fds)
            except OSError:
                self._retire(worker)
                if not fresh:
                    continue
                for fd in job.fds:  # it has died before it could take its first job, as one may die with it
                    os.close(fd)
                self._loop.call_later(0, lambda: job.done(None))
                return worker.pid
            break
        for fd in job.fds:
            os.close(fd)
        job.fds = ()
        worker.job = job
        worker.affinity = job.affinity
        worker.since = time.monotonic()
        self.busy += 1
        return worker.pid

    def _fork(self, key: Hashable) -> WorkerLink:
        if len(self._workers) >= self._policy.limit + SPARE:
            self._retire_one_idle()
        mine, theirs = pair()
        try:
            pid = os.fork()
        except OSError:
            mine.close()
            theirs.close()
            raise
        if pid == 0:
            self._child(theirs, key)
        theirs.close()
        worker = WorkerLink(pid, mine, key)
        self._workers[pid] = worker
        group = self._groups.setdefault(key, Workers())
        group.all.append(worker)
        group.pace(self._policy, time.monotonic())
        self._loop.add_reader(mine.fileno(), lambda: self._heard(worker))
        return worker

    def _child(self, sock: socket.socket, key: Hashable) -> None:
        try:
            gc.disable()
            sock = enter(sock)
            self._body.prepare(key)
            gc.enable()
            body = self._body
            self._workers = {}
            self._groups = {}
            self._waiting = deque()
            serve_jobs(sock, body.serve, title=body.title, jobs_max=body.jobs_max, wait=body.wait)
        finally:
            os._exit(1)

    def _heard(self, worker: WorkerLink) -> None:
        try:
            record = worker.sock.recv(64)  # descriptors that it might send are not even received
        except BlockingIOError:
            return
        except OSError:
            record = b""
        job = worker.job
        if job is None or len(record) != RESULT.size:
            self._retire(worker)
            self._finish(worker, None)
            return
        number, status = RESULT.unpack(record)
        if number != job.number:
            self._retire(worker)
            self._finish(worker, None)
            return
        worker.served += 1
        group = self._groups[worker.key]
        group.took(time.monotonic() - worker.since)
        if worker.served >= self._body.jobs_max:
            self._retire(worker)
        else:
            group.idle.append(worker)
            worker.since = time.monotonic()
            self._sweep_by(worker.since + group.rest_of_next(self._policy))
        self._finish(worker, status)

    def _finish(self, worker: WorkerLink, status: int | None) -> None:
        job = worker.job
        if job is None:
            return
        worker.job = None
        self.busy -= 1
        self._start_waiting()
        job.done(status)

    def _retire_one_idle(self) -> None:
        for group in self._groups.values():
            if group.idle:
                self._retire(group.idle[0])
                return

    def _sweep_by(self, when: float) -> None:
        """One timer for all idle workers: one for each job would pile up by the thousand."""
        if self._sweep_at <= when:
            return
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_at = when
        self._sweeper = self._loop.call_later(when - time.monotonic(), self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        self._sweep_at, self._sweeper = math.inf, None
        next_at = math.inf
        for group in list(self._groups.values()):
            ended, again = group.rest(self._policy, now)
            next_at = min(next_at, again)
            for worker in ended:
                self._retire(worker)
        if next_at < math.inf:
            self._sweep_by(max(next_at, now + SWEEP_S))

    def _retire(self, worker: WorkerLink) -> None:
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
