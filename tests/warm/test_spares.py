"""Workers that are made before it is known for whom: each becomes its key's, none is lost and none stays."""

import math
import os
import signal
import time
from collections.abc import Hashable

import pytest

from pyqmail.warm.spares import SOON_S, SPARE_S, Body, Made, Spares
from pyqmail.warm.wire import send_record
from pyqmail.warm.worker import JOB, RESULT

BECOME: list[Hashable] = []  # in a worker: its key


def body() -> Body:
    def serve(_payload: bytes, _fds: list[int]) -> int:
        assert isinstance(BECOME[0], tuple)
        return BECOME[0][0] * 100 + BECOME[0][1]

    return Body(serve, BECOME.append, "test", 10, None)


def served(made: Made) -> int:
    """What a worker says to a job; it ends."""
    pid, sock = made
    sock.settimeout(60)
    send_record(sock, JOB.pack(1))
    status: int = RESULT.unpack(sock.recv(100))[1]
    end(made)
    return status


def end(made: Made) -> None:
    made[1].close()
    os.waitpid(made[0], 0)


def test_twice_as_many_are_made_each_time_while_new_keys_come_soon_and_each_is_its_keys() -> None:
    spares, waiting = Spares(body(), 4), []
    for index in range(11):
        made = spares.take((index, 7), 100 + index * SOON_S / 10)
        waiting.append(len(spares.waiting))
        assert served(made) == index * 100 + 7
    # one, then one and one to spare, then one and three; and never more than four at once
    assert waiting == [0, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0]


def test_none_is_made_to_spare_while_new_keys_are_rare_or_where_one_is_all() -> None:
    rare, alone = Spares(body(), 4), Spares(body(), 1)
    for index in range(3):
        end(rare.take((index, 7), 100 + index * SOON_S))
        end(alone.take("any key", 100))
        assert not rare.waiting and not alone.waiting


def test_what_has_waited_for_long_is_the_callers_to_end() -> None:
    spares = Spares(body(), 4)
    for index in range(4):
        end(spares.take((index, 7), 100))
    assert spares.rested(100 + SPARE_S / 2) == [] and len(spares.waiting) == 3
    ended = spares.rested(100 + SPARE_S)
    assert len(ended) == 3 and not spares.waiting
    for made in ended:
        end(made)  # with its socket


def test_one_that_has_died_is_passed_over_and_ended() -> None:
    spares = Spares(body(), 2)
    for index in range(2):
        end(spares.take((index, 7), 100))
    ((dead, sock),) = spares.waiting
    os.kill(dead, signal.SIGKILL)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    assert served(spares.take((9, 7), 100)) == 907
    left = spares.rested(math.inf)
    assert (dead, sock) in left
    for made in left:
        end(made)


def test_without_room_for_all_there_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, forked = os.fork, []

    def refuse_the_third() -> int:
        forked.append(1)
        if len(forked) > 2:
            raise BlockingIOError
        return fork()

    spares = Spares(body(), 4)
    first = spares.take((1, 7), 100)
    monkeypatch.setattr(os, "fork", refuse_the_third)
    before = len(os.listdir("/proc/self/fd"))
    second = spares.take((2, 7), 100)
    third = spares.take((3, 7), 100)
    assert (served(first), served(second), served(third)) == (107, 207, 307)
    with pytest.raises(BlockingIOError):
        spares.take((4, 7), 100)
    assert len(os.listdir("/proc/self/fd")) == before - 1  # the first worker's socket has gone, and nothing was kept


def test_a_spare_has_nothing_open_but_its_socket() -> None:
    reader, writer = os.pipe()
    spares = Spares(body(), 2)
    for index in range(2):
        end(spares.take((index, 7), 100))
    os.close(writer)
    os.set_blocking(reader, False)
    ((pid, sock),) = spares.waiting
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            assert os.read(reader, 1) == b""
            break
        except BlockingIOError:
            time.sleep(0.01)
    else:
        pytest.fail("the pipe is still open in the worker to be")
    os.close(reader)
    end((pid, sock))
