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
