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

from pyqmail.system.loop import Loop, Timer
from pyqmail.system.processes import kill_family
from pyqmail.warm.wire import pair, send_record
from pyqmail.warm.worker import JOB, RESULT, Serve, Wait, enter, serve_jobs

Done = Callable[[int | None], None]
Prepare = Callable[[Hashable], None]

SHORT_PACE = 40  # so many times the pace while jobs are short
LOOKS_MAX = 40  # at a worker that should end, 50 ms apart
SWEEP_S = 0.25  # at least between two looks at the idle workers
SPARE = 16  # workers that may idle beyond the jobs allowed at once


class _Job:
    __slots__ = ("done", "fds", "near", "number", "payload")

    def __init__(self, number: int, payload: bytes, fds: tuple[int, ...], done: Done, near: Hashable) -> None:
        self.number = number
        self.payload = payload
        self.fds = fds
        self.done = done
        self.near = near


class _Worker:
    __slots__ = ("job", "key", "near", "pid", "served", "since", "sock")

    def __init__(self, pid: int, sock: socket.socket, key: Hashable) -> None:
        self.pid = pid
        self.sock = sock
        self.key = key
        self.job: _Job | None = None
        self.near: Hashable = None  # of its last job
        self.served = 0
        self.since = 0.0  # when it took its job or fell idle, in monotonic seconds


class _Crew:
    """The workers of one key."""

    __slots__ = ("idle", "job_s", "next_fork", "workers")

    def __init__(self) -> None:
        self.workers: list[_Worker] = []
        self.idle: list[_Worker] = []
        self.next_fork = 0.0  # monotonic seconds
        self.job_s = 0.0  # how long a job takes, lately

    def pace(self, pace_s: float, short_s: float, now: float) -> None:
        """Say when the next worker may be made after one at ``now``: jobs are long if they were or if one is by now."""
        long = self.job_s >= short_s or any(w.job is not None and now - w.since > short_s for w in self.workers)
        self.next_fork = now + pace_s * (1 if long else SHORT_PACE)


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
        self._wait = wait
        self._pace_s = pace_s
        self._paced_from = paced_from
        self._short_s = short_s
        self._pacing = False
        self._serve = serve
        self._prepare = prepare
        self._limit = limit
        self._title = title
        self._jobs_max = jobs_max
        self._idle_s = idle_s
        self._surplus_s = surplus_s
        self._crews: dict[Hashable, _Crew] = {}
        self._workers: dict[int, _Worker] = {}
        self._waiting: deque[tuple[Hashable, _Job]] = deque()
        self._count = 0
        self._sweep_at = math.inf  # in monotonic seconds
        self._sweeper: Timer | None = None
        self.busy = 0

    def submit(
        self, key: Hashable, payload: bytes, fds: tuple[int, ...], done: Done, *, near: Hashable = None
    ) -> int | None:
        """Run a job; the pool closes ``fds`` when they are handed over. ``done`` gets its status, None if it died.

        Of the idle workers one whose last job was ``near`` the same place is preferred: it may still be connected.
        Returns the process of the worker that took it, None while it waits for one.
        Raises OSError when no worker can be made; the descriptors are then still the caller's.
        """
        self._count += 1
        job = _Job(self._count, payload, fds, done, near)
        if self.busy >= self._limit or not self._startable(key):
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
        crew = self._crews.get(key)
        if crew is None or not self._pace_s or crew.idle or len(crew.workers) < self._paced_from:
            return True
        return time.monotonic() >= crew.next_fork

    def _pace(self) -> None:
        """See to it that a job that waits only for a worker is looked at when one may be made."""
        if self._waiting and self.busy < self._limit and not self._pacing:
            self._pacing = True
            crews = [crew for crew in map(self._crews.get, {key for key, _ in self._waiting}) if crew is not None]
            soonest = min((crew.next_fork for crew in crews), default=0.0)
            self._loop.call_later(max(0.0, soonest - time.monotonic()), self._paced)

    def _paced(self) -> None:
        self._pacing = False
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start what waits and can, each key's jobs in their order."""
        passed: list[tuple[Hashable, _Job]] = []
        while self._waiting and self.busy < self._limit:
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

    def _start(self, key: Hashable, job: _Job) -> int:
        while True:
            crew = self._crews.get(key)
            fresh = crew is None or not crew.idle
            worker = self._fork(key) if crew is None or not crew.idle else _choose(crew.idle, job.near)
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
        worker.near = job.near
        worker.since = time.monotonic()
        self.busy += 1
        return worker.pid

    def _fork(self, key: Hashable) -> _Worker:
        if len(self._workers) >= self._limit + SPARE:
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
        worker = _Worker(pid, mine, key)
        self._workers[pid] = worker
        crew = self._crews.setdefault(key, _Crew())
        crew.workers.append(worker)
        crew.pace(self._pace_s, self._short_s, time.monotonic())
        self._loop.add_reader(mine.fileno(), lambda: self._heard(worker))
        return worker

    def _child(self, sock: socket.socket, key: Hashable) -> None:
        try:
            gc.disable()
            sock = enter(sock)
            self._prepare(key)
            gc.enable()
            serve, title, jobs_max, wait = self._serve, self._title, self._jobs_max, self._wait
            self._workers = {}
            self._crews = {}
            self._waiting = deque()
            serve_jobs(sock, serve, title=title, jobs_max=jobs_max, wait=wait)
        finally:
            os._exit(1)

    def _heard(self, worker: _Worker) -> None:
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
        crew = self._crews[worker.key]
        crew.job_s += (time.monotonic() - worker.since - crew.job_s) / 8
        if worker.served >= self._jobs_max:
            self._retire(worker)
        else:
            crew.idle.append(worker)
            worker.since = time.monotonic()
            self._sweep_by(worker.since + (self._idle_s if len(crew.idle) == 1 else self._surplus_s))
        self._finish(worker, status)

    def _finish(self, worker: _Worker, status: int | None) -> None:
        job = worker.job
        if job is None:
            return
        worker.job = None
        self.busy -= 1
        self._start_waiting()
        job.done(status)

    def _retire_one_idle(self) -> None:
        for crew in self._crews.values():
            if crew.idle:
                self._retire(crew.idle[0])
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
        for crew in list(self._crews.values()):
            for worker in list(crew.idle):
                end = worker.since + (self._idle_s if worker is crew.idle[-1] else self._surplus_s)
                if end <= now:
                    self._retire(worker)
                else:
                    next_at = min(next_at, end)
        if next_at < math.inf:
            self._sweep_by(max(next_at, now + SWEEP_S))

    def _retire(self, worker: _Worker) -> None:
        if self._workers.pop(worker.pid, None) is None:
            return
        crew = self._crews[worker.key]
        crew.workers.remove(worker)
        if worker in crew.idle:
            crew.idle.remove(worker)
        if not crew.workers:
            del self._crews[worker.key]
        self._loop.remove_reader(worker.sock.fileno())
        worker.sock.close()
        self._reap(worker.pid)

    def _reap(self, pid: int, looks: int = 0) -> None:
        """Collect a worker whose socket is closed; it ends by itself, or its user has stopped it: then it is killed."""
        try:
            found, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return
        if found == 0:
            if looks == LOOKS_MAX:
                os.kill(pid, signal.SIGKILL)  # not collected yet, so the number is still its own
            self._loop.call_later(0.05, lambda: self._reap(pid, looks + 1))


def _choose(idle: list[_Worker], near: Hashable) -> _Worker:
    """Take a worker out of ``idle``: one that knows the place, else one that knows none or was there longest ago."""
    if near is None:
        return idle.pop()
    at = next((at for at in range(len(idle) - 1, -1, -1) if idle[at].near == near), None)
    if at is None:
        at = next((at for at, worker in enumerate(idle) if worker.near is None), 0)
    return idle.pop(at)
