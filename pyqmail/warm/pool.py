"""The parent's side: forked workers by key (a uid and gid, say), each serving one job at a time.

A worker is forked for a key, told to become what the key says, and given jobs of that key only. A worker that dies
before it took a job is replaced and the job sent again; one that dies with a job makes that job's status None.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Hashable

from pyqmail.system.loop import Loop
from pyqmail.system.processes import kill_family
from pyqmail.warm.collector import Output
from pyqmail.warm.fleet import Fleet
from pyqmail.warm.held_report import HeldReport
from pyqmail.warm.spares import Body, Prepare
from pyqmail.warm.wire import send_record
from pyqmail.warm.worker import ANSWER_MAX, JOB, PIPE, Serve, Wait, parse_answer
from pyqmail.warm.workers import Job, Policy, WorkerLink

Done = Callable[[int | None], None]


class Pool:
    """Workers that run ``serve(payload, fds) -> status`` after ``prepare(key)`` has changed who they are.

    ``limit`` is the number of jobs at once; at most ``limit + SPARE`` workers live. ``prepare`` runs in the fresh
    child after all inherited descriptors are closed, and must raise if it cannot become what the key says. A key has
    ``paced_from`` workers as soon as it has jobs for them, further ones ``pace_s`` seconds after the last was made, or
    SHORT_PACE times that while its jobs are below ``short_s``: one is then done by a busy worker sooner than by a new
    one, even on a busy machine.
    One idle worker of a key is kept for ``idle_s`` seconds, others for ``surplus_s``. Where ``at_once`` is more than 1
    a key with workers is a uid and a gid, and so many are made in one go while new keys are many (warm/spares).
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
        at_once: int = 1,
        report: HeldReport | None = None,
    ) -> None:
        self._loop = loop
        self._limit = limit
        policy = Policy(limit, idle_s, surplus_s, pace_s, paced_from, short_s, at_once)
        self._fleet = Fleet(loop, Body(serve, prepare, title, jobs_max, wait, report), policy, self._heard)
        self._pacing = False
        self._waiting: deque[tuple[Hashable, Job]] = deque()
        self._count = 0
        self.busy = 0

    def submit(
        self,
        key: Hashable,
        payload: bytes,
        fds: tuple[int, ...],
        done: Done,
        *,
        affinity: Hashable = None,
        output: Output | None = None,
    ) -> int | None:
        """Run a job; the pool closes ``fds`` when they are handed over. ``done`` gets its status, None if it died.

        Of the idle workers one whose last job was ``affinity`` is the same is preferred: it may still be connected.
        What a job says into the pool's ``report`` goes to ``output``, before ``done``.
        Returns the process of the worker that took it, None while it waits for one.
        Raises OSError when no worker can be made; the descriptors are then still the caller's.
        """
        self._count += 1
        job = Job(self._count, payload, fds, done, affinity, output)
        if self.busy >= self._limit or not self._fleet.startable(key):
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
        for worker in self._fleet.workers:
            if worker.job is not None and worker.job.number == number:
                kill_family(worker.pid)
                return

    def pids(self) -> list[int]:
        """The processes of the live workers."""
        return [worker.pid for worker in self._fleet.workers]

    def close(self) -> None:
        """Let the idle workers end."""
        self._fleet.close()

    def _pace(self) -> None:
        """See to it that a job that waits only for a worker is looked at when one may be made."""
        if self._waiting and self.busy < self._limit and not self._pacing:
            self._pacing = True
            self._loop.call_later(self._fleet.startable_in({key for key, _ in self._waiting}), self._paced)

    def _paced(self) -> None:
        self._pacing = False
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start what waits and can, each key's jobs in their order."""
        passed: list[tuple[Hashable, Job]] = []
        while self._waiting and self.busy < self._limit:
            key, waiting = self._waiting.popleft()
            if not self._fleet.startable(key):
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
            worker, fresh = self._fleet.take(key, job.affinity)
            try:
                send_record(worker.sock, JOB.pack(job.number) + job.payload, job.fds, wait=False)
            except OSError:
                self._fleet.retire(worker)
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

    def _heard(self, worker: WorkerLink) -> None:
        try:
            record = worker.sock.recv(ANSWER_MAX)  # descriptors that it might send are not even received
        except BlockingIOError:
            return
        except OSError:
            record = b""
        answer, job = parse_answer(record), worker.job
        if job is None or answer is None or answer.number != job.number:
            self._lost(worker)
        elif answer.status is None:
            if not _give_pipe(worker, job):
                self._lost(worker)
        else:
            if answer.said and job.output is not None:
                job.output.hear(answer.said)
            self._fleet.give_back(worker)
            self._finish(worker, answer.status)

    def _lost(self, worker: WorkerLink) -> None:
        """It has ended, or says what nobody asked for."""
        self._fleet.retire(worker)
        self._finish(worker, None)

    def _finish(self, worker: WorkerLink, status: int | None) -> None:
        job = worker.job
        if job is None:
            return
        worker.job = None
        self.busy -= 1
        self._start_waiting()
        job.done(status)


def _give_pipe(worker: WorkerLink, job: Job) -> bool:
    """Answer a worker that wants a pipe for its job; false where it may not want one, or is gone."""
    if job.output is None or job.asked:
        return False
    job.asked = True
    fds: tuple[int, ...] = ()
    try:
        fds = (job.output.open(),)
    except OSError:
        pass  # the delivery is deferred
    try:
        send_record(worker.sock, PIPE, fds, wait=False)
    except OSError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True
