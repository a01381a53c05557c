"""A report that goes with a status, and the pipe that a worker asks for before it has a child."""

import mmap
import os
import signal
from collections.abc import Callable, Hashable, Iterator

import pytest

from pyqmail.system.loop import Loop
from pyqmail.warm.collector import Collector
from pyqmail.warm.held_report import SAID_MAX, HeldReport
from pyqmail.warm.pool import Pool
from pyqmail.warm.worker import ANSWER_MAX, JOB, RESULT, Answer, parse_answer

Result = tuple[int | None, bytes]


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        pytest.param(RESULT.pack(7, -1), Answer(7, -1, b""), id="a status"),
        pytest.param(RESULT.pack(7, 100) + b"no\n", Answer(7, 100, b"no\n"), id="a status and what was said"),
        pytest.param(JOB.pack(7), Answer(7, None, b""), id="a wish for a pipe"),
        pytest.param(b"", None, id="the end"),
        pytest.param(b"x" * 7, None, id="too short"),
        pytest.param(b"x" * 11, None, id="between two lengths"),
    ],
)
def test_what_a_worker_answers(record: bytes, answer: Answer | None) -> None:
    assert parse_answer(record) == answer


def unwanted() -> int:
    raise AssertionError("asked for a pipe")


def test_what_is_said_is_kept_for_the_status_and_forgotten_with_the_job() -> None:
    report = HeldReport()
    for text in (b"first\n", b"second\n"):
        report.begin(unwanted)
        report.say(text)
        assert report.end() == text
        assert not report.is_open


def test_too_much_for_a_status_and_no_pipe_is_cut_and_no_error() -> None:
    def refuse() -> int:
        raise OSError

    report = HeldReport()
    report.begin(refuse)
    report.say(b"x" * (SAID_MAX + 1))
    assert report.end() == b"x" * SAID_MAX


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


class Jobs:
    """What one worker answers to jobs, each with an output of its own."""

    def __init__(
        self, loop: Loop, serve: Callable[[bytes, HeldReport], int], submitted: mmap.mmap | None = None
    ) -> None:
        self._loop = loop
        self._submitted = submitted
        report = HeldReport()
        self.pool = Pool(
            loop, lambda data, _: serve(data, report), prepare=self.alone, limit=1, title="test", report=report
        )

    @staticmethod
    def alone(_key: Hashable) -> None:
        pass

    def run(self, payload: bytes) -> Result:
        """The result of one job."""
        results: list[Result] = []
        collector = Collector(self._loop, bytearray.extend, lambda status, said: results.append((status, said)))
        self.pool.submit("k", payload, (), collector.ended, output=collector)
        if self._submitted is not None:
            self._submitted[:] = JOB.pack(self.pool.submitted)
        timer = self._loop.call_later(20, lambda: results.append((-1, b"nothing is heard")))
        while not results:
            self._loop.run_once()
        timer.cancel()
        return results[0]


def test_a_job_without_a_child_has_no_pipe_and_is_heard(loop: Loop) -> None:
    def serve(payload: bytes, report: HeldReport) -> int:
        report.say(payload.upper())
        return int(os.fstat(1).st_rdev == 0)  # the null device is one

    jobs = Jobs(loop, serve)
    assert [jobs.run(b"one"), jobs.run(b"two")] == [(0, b"ONE"), (0, b"TWO")]
    jobs.pool.close()


@pytest.mark.parametrize("size", [5, SAID_MAX, SAID_MAX + 1, 300_000])
def test_a_report_of_any_length_arrives_once(loop: Loop, size: int) -> None:
    def serve(_payload: bytes, report: HeldReport) -> int:
        report.say(b"x" * size)
        os.closerange(1, 3)
        return 3

    jobs = Jobs(loop, serve)
    assert jobs.run(b"") == (3, b"x" * size)
    jobs.pool.close()


def test_a_child_is_heard_between_what_its_job_says(loop: Loop) -> None:
    def serve(_payload: bytes, report: HeldReport) -> int:
        report.say(b"before\n")
        report.open()
        report.open()  # no second pipe
        os.system("echo child")
        report.say(b"after\n")
        os.closerange(1, 3)
        return 0

    jobs = Jobs(loop, serve)
    assert jobs.run(b"") == (0, b"before\nchild\nafter\n")
    jobs.pool.close()


def asks_twice(sock: int) -> None:
    for _ in range(2):
        os.write(sock, JOB.pack(1))


def asks_for_another_job(sock: int) -> None:
    os.write(sock, JOB.pack(2))


def says_nonsense(sock: int) -> None:
    os.write(sock, b"x" * 9)


@pytest.mark.parametrize("lie", [asks_twice, asks_for_another_job, says_nonsense])
def test_a_worker_that_says_what_it_may_not_is_lost(loop: Loop, lie: Callable[[int], None]) -> None:
    def serve(payload: bytes, report: HeldReport) -> int:
        if payload == b"lie":
            sock = job_socket()
            os.set_blocking(sock, True)
            lie(sock)
            signal.pause()
        report.say(payload)
        return 0

    jobs = Jobs(loop, serve)
    assert jobs.run(b"lie") == (None, b"")
    assert jobs.run(b"well") == (0, b"well")
    jobs.pool.close()


def job_socket() -> int:
    """A worker's only socket, whatever its number."""
    (found,) = [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_socket(fd)]
    return found


def is_socket(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except FileNotFoundError:  # the directory that was listed
        return False


def test_a_job_with_descriptors_of_its_own_gets_no_pipe(loop: Loop) -> None:
    """Not even if its worker knows how to ask."""

    def serve(_payload: bytes, _fds: list[int]) -> int:
        sock = job_socket()
        os.write(sock, JOB.pack(1))
        signal.pause()
        return 0

    pool, ended = Pool(loop, serve, prepare=Jobs.alone, limit=1, title="test"), list[int | None]()
    pool.submit("k", b"", (), ended.append)
    while not ended:
        loop.run_once(20)
    assert ended == [None]
    pool.close()


def test_a_worker_that_answers_and_reads_nothing_holds_nobody_up(loop: Loop) -> None:
    """It says that jobs are done which lie in its socket still, until no more goes in: then it is given up."""
    submitted = mmap.mmap(-1, 8)  # the number of the last job, for the worker to see

    def serve(payload: bytes, report: HeldReport) -> int:
        if payload != b"lie":
            report.say(b"the truth")
            return 0
        sock, number = job_socket(), 1
        while True:
            while JOB.unpack(submitted[:])[0] < number:
                signal.sigtimedwait([], 0.0005)
            os.write(sock, RESULT.pack(number, 0) + b"a lie")
            number += 1

    jobs = Jobs(loop, serve, submitted)
    answers = [jobs.run(b"lie"), *(jobs.run(b"x" * 10_000) for _ in range(200))]
    assert answers[0] == (0, b"a lie")
    assert answers[-1] == (0, b"the truth")
    jobs.pool.close()


def test_a_worker_that_dies_in_the_middle_of_its_report_has_none(loop: Loop) -> None:
    def serve(_payload: bytes, report: HeldReport) -> int:
        report.say(b"did 1+0+0\n")
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    jobs = Jobs(loop, serve)
    assert jobs.run(b"") == (None, b"")
    jobs.pool.close()


@pytest.mark.parametrize("call", ["pipe2", "set_blocking"])
def test_without_a_pipe_to_be_had_the_job_hears_so_and_says_so(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def serve(_payload: bytes, report: HeldReport) -> int:
        try:
            report.open()
        except OSError as error:
            report.say(os.strerror(error.errno or 0).encode())
        return 111

    def none(*_: object) -> tuple[int, int]:
        raise OSError(23, "made to fail")

    jobs = Jobs(loop, serve)
    monkeypatch.setattr(os, call, none)
    assert jobs.run(b"") == (111, b"Too many open files")
    jobs.pool.close()


def test_more_than_is_read_of_an_answer_is_left_out(loop: Loop) -> None:
    def serve(_payload: bytes, _report: HeldReport) -> int:
        sock = job_socket()
        os.write(sock, RESULT.pack(1, 0) + b"x" * (2 * ANSWER_MAX))
        signal.pause()
        return 0

    jobs = Jobs(loop, serve)
    assert jobs.run(b"") == (0, b"x" * SAID_MAX)
    for pid in jobs.pool.pids():
        os.kill(pid, signal.SIGKILL)
    jobs.pool.close()
