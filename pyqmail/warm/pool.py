"""The parent's side: forked workers by key (a uid and gid, say), each serving one job at a time.

A worker is forked for a key, told to become what the key says, and given jobs of that key only. A worker that dies
before it took a job is replaced and the job sent again; one that dies with a job makes that job's status None.
"""

import gc
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Hashable

from pyqmail.system.loop import Loop
from pyqmail.warm.wire import pair, send_record
from pyqmail.warm.worker import JOB, RESULT, Serve, Wait, enter, serve_jobs

Done = Callable[[int | None], None]
Prepare = Callable[[Hashable], None]

PACED_FROM = 8  # workers: so many are made without delay
SHORT_S = 0.3  # jobs below this end before more workers would do any good, even on a busy machine
SHORT_PACE = 40  # so many times the pace while jobs are short
LOOKS_MAX = 40  # at a worker that should end, 50 ms apart
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


class Pool:
    """Workers that run ``serve(payload, fds) -> status`` after ``prepare(key)`` has changed who they are.

    ``limit`` is the number of jobs at once; at most ``limit + SPARE`` workers live. ``prepare`` runs in the fresh
    child after all inherited descriptors are closed, and must raise if it cannot become what the key says. With
    ``pace_s`` workers beyond the first few are made at that distance in seconds, and much more slowly while jobs are
    short: a burst of short jobs is over before a hundred processes would be up, and long jobs lose little.
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
        wait: Wait | None = None,
        pace_s: float = 0.0,
    ) -> None:
        self._loop = loop
        self._wait = wait
        self._pace_s = pace_s
        self._next_fork = 0.0  # monotonic seconds
        self._job_s = 0.0  # how long a job takes, lately
        self._pacing = False
        self._serve = serve
        self._prepare = prepare
        self._limit = limit
        self._title = title
        self._jobs_max = jobs_max
        self._idle_s = idle_s
        self._idle: dict[Hashable, list[_Worker]] = {}
        self._workers: dict[int, _Worker] = {}
        self._waiting: deque[tuple[Hashable, _Job]] = deque()
        self._count = 0
        self._sweeping = False
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
        if not self._pace_s or self._idle.get(key) or len(self._workers) < PACED_FROM:
            return True
        return time.monotonic() >= self._next_fork

    def _paced_from(self, now: float) -> float:
        """When the next worker may be made after one at ``now``; jobs are long if they were or if one is by now."""
        long = self._job_s >= SHORT_S or any(
            worker.job is not None and now - worker.since > SHORT_S for worker in self._workers.values()
        )
        return now + self._pace_s * (1 if long else SHORT_PACE)

    def _pace(self) -> None:
        """See to it that a job that waits only for a worker is looked at when one may be made."""
        if self._waiting and self.busy < self._limit and not self._pacing:
            self._pacing = True
            self._loop.call_later(max(0.0, self._next_fork - time.monotonic()), self._paced)

    def _paced(self) -> None:
        self._pacing = False
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and self.busy < self._limit and self._startable(self._waiting[0][0]):
            key, waiting = self._waiting.popleft()
            try:
                self._start(key, waiting)
            except OSError:
                for fd in waiting.fds:
                    os.close(fd)
                waiting.done(None)
        self._pace()

    def _start(self, key: Hashable, job: _Job) -> int:
        while True:
            idle = self._idle.get(key)
            fresh = not idle
            worker = _choose(idle, job.near) if idle else self._fork(key)
            try:
                send_record(worker.sock, JOB.pack(job.number) + job.payload, job.fds)
            except OSError:
                self._retire(worker)
                if fresh:
                    raise
                continue
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
        if self._pace_s:
            self._next_fork = self._paced_from(time.monotonic())
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
            self._idle = {}
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
        self._job_s += (time.monotonic() - worker.since - self._job_s) / 8
        if worker.served >= self._jobs_max:
            self._retire(worker)
        else:
            self._idle.setdefault(worker.key, []).append(worker)
            worker.since = time.monotonic()
            self._sweep_later()
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
        for workers in self._idle.values():
            if workers:
                self._retire(workers[0])
                return

    def _sweep_later(self) -> None:
        """One timer for all idle workers: one for each job would pile up by the thousand."""
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self._idle_s / 2, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        limit = time.monotonic() - self._idle_s
        for workers in list(self._idle.values()):
            for worker in [worker for worker in workers if worker.since <= limit]:
                self._retire(worker)
        if self._idle:
            self._sweep_later()

    def _retire(self, worker: _Worker) -> None:
        if self._workers.pop(worker.pid, None) is None:
            return
        idle = self._idle.get(worker.key)
        if idle is not None:
            if worker in idle:
                idle.remove(worker)
            if not idle:
                del self._idle[worker.key]
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
