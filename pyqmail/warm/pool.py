"""The parent's side: forked workers by key (a uid and gid, say), each serving one job at a time.

A worker is forked for a key, told to become what the key says, and given jobs of that key only. A worker that dies
before it took a job is replaced and the job sent again; one that dies with a job makes that job's status None.
"""

import gc
import os
import socket
from collections import deque
from collections.abc import Callable, Hashable

from pyqmail.system.loop import Loop, Timer
from pyqmail.warm.wire import pair, receive_record, send_record
from pyqmail.warm.worker import JOB, RESULT, Serve, enter, serve_jobs

Done = Callable[[int | None], None]
Prepare = Callable[[Hashable], None]

SPARE = 16  # workers that may idle beyond the jobs allowed at once


class _Job:
    __slots__ = ("done", "fds", "number", "payload")

    def __init__(self, number: int, payload: bytes, fds: tuple[int, ...], done: Done) -> None:
        self.number = number
        self.payload = payload
        self.fds = fds
        self.done = done


class _Worker:
    __slots__ = ("job", "key", "pid", "served", "sock", "timer")

    def __init__(self, pid: int, sock: socket.socket, key: Hashable) -> None:
        self.pid = pid
        self.sock = sock
        self.key = key
        self.job: _Job | None = None
        self.served = 0
        self.timer: Timer | None = None


class Pool:
    """Workers that run ``serve(payload, fds) -> status`` after ``prepare(key)`` has changed who they are.

    ``limit`` is the number of jobs at once; at most ``limit + SPARE`` workers live. ``prepare`` runs in the fresh
    child after all inherited descriptors are closed, and must raise if it cannot become what the key says.
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
    ) -> None:
        self._loop = loop
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
        self.busy = 0

    def submit(self, key: Hashable, payload: bytes, fds: tuple[int, ...], done: Done) -> int | None:
        """Run a job; the pool closes ``fds`` when they are handed over. ``done`` gets its status, None if it died.

        Returns the process of the worker that took it, None while it waits for one.
        Raises OSError when no worker can be made; the descriptors are then still the caller's.
        """
        self._count += 1
        job = _Job(self._count, payload, fds, done)
        if self.busy >= self._limit:
            self._waiting.append((key, job))
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

    def _start(self, key: Hashable, job: _Job) -> int:
        while True:
            idle = self._idle.get(key)
            fresh = not idle
            worker = idle.pop() if idle else self._fork(key)
            if worker.timer is not None:
                worker.timer.cancel()
                worker.timer = None
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
        self._loop.add_reader(mine.fileno(), lambda: self._heard(worker))
        return worker

    def _child(self, sock: socket.socket, key: Hashable) -> None:
        try:
            gc.disable()
            sock = enter(sock)
            self._prepare(key)
            gc.enable()
            serve, title, jobs_max = self._serve, self._title, self._jobs_max
            self._workers = {}
            self._idle = {}
            self._waiting = deque()
            serve_jobs(sock, serve, title=title, jobs_max=jobs_max)
        finally:
            os._exit(1)

    def _heard(self, worker: _Worker) -> None:
        try:
            record = receive_record(worker.sock)
        except BlockingIOError:
            return
        except OSError:
            record = None
        if record is not None:
            for fd in record[1]:
                os.close(fd)
        job = worker.job
        if record is None or job is None or len(record[0]) != RESULT.size:
            self._retire(worker)
            self._finish(worker, None)
            return
        number, status = RESULT.unpack(record[0])
        if number != job.number:
            self._retire(worker)
            self._finish(worker, None)
            return
        worker.served += 1
        if worker.served >= self._jobs_max:
            self._retire(worker)
        else:
            self._idle.setdefault(worker.key, []).append(worker)
            worker.timer = self._loop.call_later(self._idle_s, lambda: self._retire(worker))
        self._finish(worker, status)

    def _finish(self, worker: _Worker, status: int | None) -> None:
        job = worker.job
        if job is None:
            return
        worker.job = None
        self.busy -= 1
        while self._waiting and self.busy < self._limit:
            key, waiting = self._waiting.popleft()
            try:
                self._start(key, waiting)
            except OSError:
                for fd in waiting.fds:
                    os.close(fd)
                waiting.done(None)
        job.done(status)

    def _retire_one_idle(self) -> None:
        for workers in self._idle.values():
            if workers:
                self._retire(workers[0])
                return

    def _retire(self, worker: _Worker) -> None:
        if self._workers.pop(worker.pid, None) is None:
            return
        idle = self._idle.get(worker.key)
        if idle is not None:
            if worker in idle:
                idle.remove(worker)
            if not idle:
                del self._idle[worker.key]
        if worker.timer is not None:
            worker.timer.cancel()
        self._loop.remove_reader(worker.sock.fileno())
        worker.sock.close()
        self._reap(worker.pid)

    def _reap(self, pid: int) -> None:
        """Collect a worker whose socket is closed; it ends by itself, so look again until it has."""
        try:
            found, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return
        if found == 0:
            self._loop.call_later(0.05, lambda: self._reap(pid))
