"""What a pool knows of its jobs and workers, and its three policies, as values: no process is touched here.

pace      a key has some workers at once; each further one waits, longer while its jobs are long
choice    an idle worker whose last job went to the same place, else one that knows none
rest      one idle worker of a key is kept for long, others for a moment
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from socket import socket

from pyqmail.warm.collector import Output

SHORT_PACE = 40  # so many times the pace while jobs are short


@dataclass(frozen=True, slots=True)
class Policy:
    """How many workers of one key there are, and for how long."""

    limit: int  # jobs at once, of all keys
    idle_s: float = 60.0  # that one idle worker of a key is kept
    surplus_s: float = 60.0  # that others are
    pace_s: float = 0.0  # between two workers of a key whose jobs are long; 0: no pace
    paced_from: int = 8  # workers that a key has without delay
    short_s: float = 0.3  # jobs below this are short
    at_once: int = 1  # workers that are made in one go while keys without one are many


class Job:
    """A job that waits or is done."""

    __slots__ = ("affinity", "asked", "done", "fds", "number", "output", "payload")

    def __init__(
        self,
        number: int,
        payload: bytes,
        fds: tuple[int, ...],
        done: "Callable[[int | None], None]",
        affinity: Hashable,
        output: Output | None = None,
    ) -> None:
        self.number = number
        self.payload = payload
        self.fds = fds
        self.done = done
        self.affinity = affinity
        self.output = output  # None: it has descriptors of its own to write to
        self.asked = False  # for a pipe


class WorkerLink:
    """A worker as its parent sees it."""

    __slots__ = ("affinity", "job", "key", "pid", "served", "since", "sock")

    def __init__(self, pid: int, sock: socket, key: Hashable) -> None:
        self.pid = pid
        self.sock = sock
        self.key = key
        self.job: Job | None = None
        self.affinity: Hashable = None  # of its last job
        self.served = 0
        self.since = 0.0  # when it took its job or fell idle, in monotonic seconds


class Workers:
    """The workers of one key."""

    __slots__ = ("all", "idle", "job_s", "next_fork")

    def __init__(self) -> None:
        self.all: list[WorkerLink] = []
        self.idle: list[WorkerLink] = []
        self.next_fork = 0.0  # monotonic seconds
        self.job_s = 0.0  # how long a job takes, lately

    def startable(self, policy: Policy, now: float) -> bool:
        """Whether a job finds a worker here, or one may be made for it now."""
        if not policy.pace_s or self.idle or len(self.all) < policy.paced_from:
            return True
        return now >= self.next_fork

    def pace(self, policy: Policy, now: float) -> None:
        """Say when the next worker may be made after one at ``now``: jobs are long if they were or if one is by now."""
        long = self.job_s >= policy.short_s or any(
            worker.job is not None and now - worker.since > policy.short_s for worker in self.all
        )
        self.next_fork = now + policy.pace_s * (1 if long else SHORT_PACE)

    def took(self, seconds: float) -> None:
        """A job has taken so long."""
        self.job_s += (seconds - self.job_s) / 8

    def choose(self, affinity: Hashable) -> WorkerLink:
        """Take an idle worker: one that knows the place, else one that knows none or was there longest ago."""
        if affinity is None:
            return self.idle.pop()
        at = next((at for at in range(len(self.idle) - 1, -1, -1) if self.idle[at].affinity == affinity), None)
        if at is None:
            at = next((at for at, worker in enumerate(self.idle) if worker.affinity is None), 0)
        return self.idle.pop(at)

    def rest(self, policy: Policy, now: float) -> tuple[list[WorkerLink], float]:
        """The idle workers that should end now, and when to look again; never: infinity."""
        ended, again = [], math.inf
        for worker in self.idle:
            end = worker.since + (policy.idle_s if worker is self.idle[-1] else policy.surplus_s)
            if end <= now:
                ended.append(worker)
            else:
                again = min(again, end)
        return ended, again

    def rest_of_next(self, policy: Policy) -> float:
        """How long the worker that has just fallen idle may be so."""
        return policy.idle_s if len(self.idle) == 1 else policy.surplus_s
