"""The policies of a pool, as values: who gets a job, when a worker may be made, and when one ends."""

import math
import socket

from pyqmail.warm.workers import SHORT_PACE, Job, Policy, WorkerLink, Workers

CLOSED = socket.socket()  # no policy looks at it
CLOSED.close()
POLICY = Policy(limit=10, idle_s=60, surplus_s=1, pace_s=0.5, paced_from=2, short_s=0.3)


def worker(affinity: str | None = None, since: float = 0.0, *, busy: bool = False) -> WorkerLink:
    made = WorkerLink(1, CLOSED, "key")
    made.affinity, made.since = affinity, since
    if busy:
        made.job = Job(1, b"", (), lambda status: None, None)
    return made


def group(*idle: WorkerLink, busy: int = 0, since: float = 0.0) -> Workers:
    made = Workers()
    made.idle = list(idle)
    made.all = [*idle, *(worker(since=since, busy=True) for _ in range(busy))]
    return made


def test_the_first_workers_are_made_at_once_and_others_at_their_pace() -> None:
    assert group(busy=1).startable(POLICY, 0)
    full = group(busy=2)
    full.next_fork = 7
    assert (full.startable(POLICY, 6.9), full.startable(POLICY, 7)) == (False, True)
    assert group(worker(), busy=2).startable(POLICY, 0)  # one is idle
    assert full.startable(Policy(limit=10), 0)  # no pace


def test_the_pace_is_slow_while_jobs_are_short() -> None:
    short, slow = group(busy=2, since=100), group(busy=2, since=99)
    short.pace(POLICY, 100.1)
    slow.pace(POLICY, 100.1)
    assert (short.next_fork, slow.next_fork) == (100.1 + 0.5 * SHORT_PACE, 100.1 + 0.5)
    known = group()
    for _ in range(30):
        known.took(1)
    known.pace(POLICY, 0)
    assert known.next_fork == 0.5


def test_a_job_goes_to_the_worker_that_knows_the_place() -> None:
    a, b, none = worker("a"), worker("b"), worker()
    assert group(a, b, none).choose("a") is a
    assert group(a, b, none).choose("c") is none
    assert group(a, b).choose("c") is a  # there longest ago
    assert group(a, b).choose(None) is b


def test_one_idle_worker_is_kept_for_long_and_others_for_a_moment() -> None:
    first, second, third = worker(since=0), worker(since=9.5), worker(since=5)
    assert group(first, second, third).rest(POLICY, 10) == ([first], 10.5)
    assert group(first).rest(POLICY, 60) == ([first], math.inf)
    assert group().rest(POLICY, 60) == ([], math.inf)
    assert (group(first).rest_of_next(POLICY), group(first, second).rest_of_next(POLICY)) == (60, 1)
