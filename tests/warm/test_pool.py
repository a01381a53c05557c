"""The pool: jobs reach workers of their key, statuses come back, deaths cost one job."""

import os
import signal
from collections.abc import Callable, Hashable, Iterator

import pytest

from pyqmail.system.loop import Loop
from pyqmail.system.process import become
from pyqmail.warm.pool import Pool


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def nobody(_key: Hashable) -> None:
    pass


def collect(loop: Loop, pool: Pool, jobs: list[tuple[Hashable, bytes, tuple[int, ...]]]) -> list[int | None]:
    """The statuses of ``jobs`` in their order, within ten seconds."""
    results: dict[int, int | None] = {}

    def keep(index: int) -> Callable[[int | None], None]:
        def done(status: int | None) -> None:
            results[index] = status
            if len(results) == len(jobs):
                loop.stop()

        return done

    for index, (key, payload, fds) in enumerate(jobs):
        pool.submit(key, payload, fds, keep(index))
    timer = loop.call_later(10, loop.stop)
    loop.run()
    timer.cancel()
    pool.close()
    return [results[index] for index in range(len(jobs))]


def test_a_job_gets_its_payload_and_descriptors_and_returns_a_status(loop: Loop) -> None:
    def serve(payload: bytes, fds: list[int]) -> int:
        os.write(fds[0], payload.upper())
        os.close(fds[0])
        return 7

    reader, writer = os.pipe()
    pool = Pool(loop, serve, prepare=nobody, limit=2, title="test")
    assert collect(loop, pool, [("k", b"hello", (writer,))]) == [7]
    assert os.read(reader, 100) == b"HELLO"
    assert os.read(reader, 100) == b""  # the parent kept no copy
    os.close(reader)


def test_one_worker_serves_many_jobs_of_its_key(loop: Loop) -> None:
    pool = Pool(loop, lambda _payload, _fds: os.getpid() % 100000, prepare=nobody, limit=1, title="test")
    statuses = collect(loop, pool, [("k", b"x", ()) for _ in range(5)])
    assert len(set(statuses)) == 1


def test_an_idle_worker_that_its_user_stopped_does_not_stay_for_ever(loop: Loop) -> None:
    pool = Pool(loop, lambda _payload, _fds: 0, prepare=nobody, limit=1, title="test")
    pool.submit("k", b"x", (), lambda _status: loop.stop())
    loop.run()
    (worker,) = pool.pids()
    os.kill(worker, signal.SIGSTOP)
    pool.close()
    deadline = loop.call_later(20, loop.stop)

    def look() -> None:
        if os.path.exists(f"/proc/{worker}"):
            loop.call_later(0.05, look)
        else:
            deadline.cancel()
            loop.stop()

    look()
    loop.run()
    assert not os.path.exists(f"/proc/{worker}")


def test_another_key_is_another_process(loop: Loop) -> None:
    pool = Pool(loop, lambda _payload, _fds: os.getpid() % 100000, prepare=nobody, limit=1, title="test")
    statuses = collect(loop, pool, [("a", b"x", ()), ("b", b"x", ())])
    assert len(set(statuses)) == 2


def test_a_worker_killed_in_its_job_gives_none_and_the_next_job_runs(loop: Loop) -> None:
    def serve(payload: bytes, _fds: list[int]) -> int:
        if payload == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    pool = Pool(loop, serve, prepare=nobody, limit=1, title="test")
    assert collect(loop, pool, [("k", b"die", ()), ("k", b"live", ())]) == [None, 0]


def test_a_failed_change_of_identity_runs_nothing(loop: Loop) -> None:
    def refuse(_key: Hashable) -> None:
        raise PermissionError

    pool = Pool(loop, lambda _payload, _fds: 0, prepare=refuse, limit=1, title="test")
    assert collect(loop, pool, [("k", b"x", ())]) == [None]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_worker_has_the_identity_of_its_key_and_only_its_job_socket(loop: Loop) -> None:
    secret = os.open("/dev/null", os.O_RDONLY)

    def prepare(key: Hashable) -> None:
        assert key == 65534
        become(65534, 65534, [65534])

    def serve(_payload: bytes, _fds: list[int]) -> int:
        numbers = sorted(int(name) for name in os.listdir("/proc/self/fd"))
        right = (
            os.getresuid() == (65534,) * 3
            and os.getresgid() == (65534,) * 3
            and os.getgroups() == [65534]
            and len(numbers) == 5  # 0, 1, 2, the job socket, and the directory being listed
        )
        return 0 if right else len(numbers)

    pool = Pool(loop, serve, prepare=prepare, limit=1, title="test")
    assert collect(loop, pool, [(65534, b"x", ())]) == [0]
    os.close(secret)


def test_a_paced_pool_makes_the_first_workers_at_once_and_lets_further_jobs_wait_for_them(loop: Loop) -> None:
    reader, writer = os.pipe()

    def serve(_payload: bytes, fds: list[int]) -> int:
        os.read(fds[0], 1)  # all are busy until the test says so
        os.close(fds[0])
        return os.getpid() % 100000

    pool = Pool(loop, serve, prepare=nobody, limit=100, title="test", pace_s=9, paced_from=8)
    loop.call_later(0, lambda: None if os.write(writer, b"x" * 20) else None)
    statuses = collect(loop, pool, [("k", b"x", (os.dup(reader),)) for _ in range(20)])
    assert None not in statuses and len(set(statuses)) == 8
    os.close(reader)
    os.close(writer)


def test_jobs_of_other_keys_do_not_wait_behind_one_that_waits_for_a_worker(loop: Loop) -> None:
    reader, writer = os.pipe()

    def serve(payload: bytes, fds: list[int]) -> int:
        if payload == b"other":
            os.write(fds[0], b"xxx")  # only this ends the wait of the others
        else:
            os.read(fds[0], 1)
        return 0

    held = os.dup(writer)
    pool = Pool(loop, serve, prepare=nobody, limit=100, title="test", pace_s=9, paced_from=1)
    jobs: list[tuple[Hashable, bytes, tuple[int, ...]]] = [("busy", b"x", (os.dup(reader),)) for _ in range(3)]
    assert collect(loop, pool, [*jobs, ("free", b"other", (held,))]) == [0, 0, 0, 0]
    os.close(reader)
    os.close(writer)


def test_a_paced_pool_makes_more_workers_while_jobs_take_long(loop: Loop) -> None:
    reader, writer = os.pipe()

    keep = os.dup(writer)

    def serve(_payload: bytes, fds: list[int]) -> int:
        if len(fds) > 1:
            os.write(fds[1], b"x" * 12)  # only a twelfth worker ends the wait of the others
        os.read(fds[0], 1)
        return os.getpid() % 100000

    pool = Pool(loop, serve, prepare=nobody, limit=100, title="test", pace_s=0.01)
    jobs: list[tuple[Hashable, bytes, tuple[int, ...]]] = [("k", b"x", (os.dup(reader),)) for _ in range(11)]
    statuses = collect(loop, pool, [*jobs, ("k", b"last", (os.dup(reader), keep))])
    assert None not in statuses and len(set(statuses)) == 12
    os.close(reader)
    os.close(writer)


def test_a_job_goes_to_the_worker_that_was_last_near_the_same_place(loop: Loop) -> None:
    pool = Pool(loop, lambda _payload, _fds: os.getpid() % 100000, prepare=nobody, limit=9, title="test")
    seen: dict[str, set[int | None]] = {"a": set(), "b": set()}

    def both() -> None:
        left = ["a", "b"]

        def done(place: str) -> Callable[[int | None], None]:
            def note(status: int | None) -> None:
                seen[place].add(status)
                left.remove(place)
                if not left:
                    loop.stop()

            return note

        for place in ("a", "b"):
            pool.submit("k", b"x", (), done(place), affinity=place)
        timer = loop.call_later(10, loop.stop)
        loop.run()
        timer.cancel()

    for _ in range(5):
        both()
    pool.close()
    assert len(seen["a"]) == len(seen["b"]) == 1 and seen["a"] != seen["b"]


def test_of_many_idle_workers_one_is_kept(loop: Loop) -> None:
    pool = Pool(loop, lambda _payload, _fds: 0, prepare=nobody, limit=4, title="test", surplus_s=0.2)
    done: list[int | None] = []
    for _ in range(4):
        pool.submit("k", b"x", (), done.append)
    assert len(pool.pids()) == 4
    deadline = loop.call_later(10, loop.stop)
    while (len(done) < 4 or len(pool.pids()) > 1) and deadline.callback is not None:
        loop.run_once(0.1)
    assert len(done) == 4 and len(pool.pids()) == 1
    (kept,) = pool.pids()
    pool.submit("k", b"x", (), done.append)
    assert pool.pids() == [kept]
    while len(done) < 5 and deadline.callback is not None:
        loop.run_once(0.1)
    deadline.cancel()
    pool.close()


def test_an_idle_worker_ends_after_its_time(loop: Loop) -> None:
    pool = Pool(loop, lambda _payload, _fds: 0, prepare=nobody, limit=2, title="test", idle_s=0.2)
    pool.submit("k", b"x", (), lambda _status: None)
    assert len(pool.pids()) == 1
    deadline = loop.call_later(10, loop.stop)
    while pool.pids() and deadline.callback is not None:
        loop.run_once(0.1)
    assert pool.pids() == []
    deadline.cancel()
