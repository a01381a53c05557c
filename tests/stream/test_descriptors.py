"""Streams on real sockets and pipes: what comes, what goes, and how long anybody is waited for."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pyqmail.stream import descriptors
from pyqmail.stream.descriptors import DescriptorStream, turn_of
from pyqmail.stream.stream import CHUNK, StreamEnded, StreamTimedOut
from tests.loopback import everything

WAIT_S = 0.3


class Ends:
    """A stream with a limit of WAIT_S, and the descriptors of its peer."""

    def __init__(self, kind: str, *, timeout_s: float | None = WAIT_S, shared: bool = False) -> None:
        if kind == "pipes":
            reader, self.say = os.pipe()
            self.hear, writer = os.pipe()
        else:
            ours, theirs = socket.socketpair()
            ours.setblocking(kind != "a socket that somebody made non-blocking")
            reader = writer = ours.detach()
            self.say = self.hear = theirs.detach()
        self.mine = {reader, writer}
        self.stream = DescriptorStream(reader, writer, timeout_s, shared=shared)

    def close(self) -> None:
        for fd in self.mine | {self.say, self.hear}:
            try:
                os.close(fd)
            except OSError:
                pass


KINDS = ["a socket", "a socket that somebody made non-blocking", "pipes"]


@pytest.fixture(params=[*KINDS, "a shared socket", "pipes without a limit"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    kind = str(request.param)
    limit = None if "without" in kind else WAIT_S
    made = Ends(kind.removesuffix(" without a limit"), timeout_s=limit, shared="shared" in kind)
    yield made
    made.close()


@pytest.fixture(params=KINDS + ["a shared socket"])
def limited(request: pytest.FixtureRequest) -> Iterator[Ends]:
    made = Ends(str(request.param), shared="shared" in str(request.param))
    yield made
    made.close()


def test_what_is_written_goes_before_the_next_wait_for_the_peer(ends: Ends) -> None:
    ends.stream.write(b"one ")
    ends.stream.write(b"two")
    os.set_blocking(ends.hear, False)
    with pytest.raises(BlockingIOError):
        os.read(ends.hear, 100)
    os.write(ends.say, b"answer")
    assert ends.stream.read() == b"answer"
    assert os.read(ends.hear, 100) == b"one two"


def test_much_is_written_at_once_and_all_of_it_arrives(ends: Ends) -> None:
    heard: list[bytes] = []

    def hear() -> None:
        while len(b"".join(heard)) < 40 * CHUNK:
            heard.append(os.read(ends.hear, 1 << 20))

    thread = threading.Thread(target=hear)
    thread.start()
    for letter in b"ab" * 20:
        ends.stream.write(bytes((letter,)) * CHUNK)
    ends.stream.flush()
    thread.join(30)
    assert b"".join(heard) == (b"a" * CHUNK + b"b" * CHUNK) * 20


def test_the_end_and_nothing_after_it(ends: Ends) -> None:
    os.write(ends.say, b"last")
    os.close(ends.say)
    assert ends.stream.read() == b"last"
    for _ in range(2):
        with pytest.raises(StreamEnded) as end:
            ends.stream.read()
        assert not isinstance(end.value, StreamTimedOut)


def test_a_silent_peer_times_out(limited: Ends) -> None:
    start = time.monotonic()
    limited.stream.write(b"before")
    with pytest.raises(StreamTimedOut):
        limited.stream.read()
    assert WAIT_S * 0.9 <= time.monotonic() - start < 10
    assert os.read(limited.hear, 100) == b"before"
    limited.stream.write(b"after")
    limited.stream.flush()
    assert os.read(limited.hear, 100) == b"after"


def test_a_peer_that_does_not_read_is_an_end_and_what_waited_is_forgotten(limited: Ends) -> None:
    start = time.monotonic()
    with pytest.raises(StreamEnded) as end:
        for _ in range(1000):
            limited.stream.write(b"x" * CHUNK)
    assert not isinstance(end.value, StreamTimedOut)
    assert time.monotonic() - start < 20
    limited.stream.flush()  # has nothing left to send, and so waits for nobody


def test_a_deadline_holds_however_often_the_peer_says_something(ends: Ends) -> None:
    ends.stream.until(time.monotonic() + WAIT_S)
    start = time.monotonic()
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            os.write(ends.say, b".")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(StreamTimedOut):
            while True:
                ends.stream.read()
    finally:
        stop.set()
        thread.join(10)
    assert WAIT_S * 0.9 <= time.monotonic() - start < 10
    ends.stream.until(None)
    os.write(ends.say, b"again")
    assert b"again" in ends.stream.read()


@pytest.mark.parametrize("timeout_s", [0.000_001, 1, 29.5, 30, 31, 60, 1200, 7919, 0x7FFFFFFF])
def test_turns_make_the_limit(timeout_s: float) -> None:
    turn_s = turn_of(timeout_s)
    assert 0 < turn_s <= descriptors.TURN_S
    assert turn_s * round(timeout_s / turn_s) == pytest.approx(timeout_s)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    """A stream on a socket for which the kernel waits three times before the limit is over."""
    monkeypatch.setattr(descriptors, "TURN_S", WAIT_S / 3)
    made = Ends("a socket")
    yield made
    made.close()


def test_a_limit_of_several_turns_is_over_after_all_of_them(turns: Ends) -> None:
    for _ in range(2):  # the second wait has a whole limit again
        start = time.monotonic()
        with pytest.raises(StreamTimedOut):
            turns.stream.read()
        assert WAIT_S * 0.9 <= time.monotonic() - start < 10


def test_what_comes_in_a_later_turn_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "TURN_S", 0.05)
    made = Ends("a socket", timeout_s=60)
    timer = threading.Timer(WAIT_S, os.write, (made.say, b"late"))
    timer.start()
    assert made.stream.read() == b"late"
    timer.join()
    made.close()


def test_a_peer_that_does_not_read_is_an_end_after_all_turns(turns: Ends) -> None:
    start = time.monotonic()
    with pytest.raises(StreamEnded):
        for _ in range(1000):
            turns.stream.write(b"x" * CHUNK)
    assert WAIT_S * 0.9 <= time.monotonic() - start < 20


def test_a_deadline_holds_in_whichever_turn_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "TURN_S", WAIT_S / 3)
    made = Ends("a socket", timeout_s=60)
    start = time.monotonic()
    made.stream.until(start + WAIT_S)
    with pytest.raises(StreamTimedOut):
        made.stream.read()
    assert WAIT_S * 0.9 <= time.monotonic() - start < 10
    made.close()


def test_nobody_is_polled_while_the_deadline_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def poll(*_: object) -> bool:
        raise AssertionError("a call too many")

    monkeypatch.setattr(descriptors, "_poll", poll)
    made = Ends("a socket", timeout_s=1200)
    made.stream.until(time.monotonic() + descriptors.TURN_S * 2)
    os.write(made.say, b"hello")
    assert made.stream.read() == b"hello"
    made.stream.say(b"x" * 1000)
    assert os.read(made.hear, CHUNK) == b"x" * 1000
    made.close()


@pytest.mark.parametrize("shared", [True, False])
def test_a_socket_that_is_handed_on_keeps_its_options(shared: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        DescriptorStream(ours.fileno(), ours.fileno(), 7, shared=shared)
        limit = ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
        assert (limit == bytes(16)) is shared
        assert ours.getblocking()


def test_a_peer_that_has_gone_is_an_end_and_no_signal() -> None:
    made = Ends("a socket")
    os.close(made.hear)
    with pytest.raises(StreamEnded):
        for _ in range(3):
            made.stream.write(b"x" * CHUNK)
    made.stream.close()
    made.close()


def test_closing_says_what_has_gathered_and_leaves_the_descriptors() -> None:
    ours, theirs = socket.socketpair()
    stream = DescriptorStream(ours.fileno(), ours.fileno(), 5)
    stream.write(b"bye")
    stream.close()
    with theirs:
        assert theirs.recv(100) == b"bye"
        ours.sendall(b"still open")
        ours.close()
        assert everything(theirs) == b"still open"


def test_standard_input_and_output_are_sockets_in_one_session_and_pipes_in_the_next() -> None:
    pid = os.fork()
    if pid == 0:
        found = []
        for kind in ("a socket", "pipes", "a socket"):
            made = Ends(kind)
            mine = sorted(made.mine)
            os.dup2(mine[0], 0)
            os.dup2(mine[-1], 1)
            started = time.monotonic()
            stream = DescriptorStream(0, 1, WAIT_S)
            try:
                stream.read()
            except StreamTimedOut:
                found.append((stream.sockets, WAIT_S * 0.9 <= time.monotonic() - started < 10))
        os._exit(0 if found == [(True, True), (False, True), (True, True)] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
