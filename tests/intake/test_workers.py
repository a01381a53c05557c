"""What qmail-queued's parent has for a worker gets there, whatever fails on the way."""

import socket
from collections import deque
from collections.abc import Iterator

import pytest

from pyqmail.intake import workers as module
from pyqmail.intake.pulse import Pulse
from pyqmail.intake.workers import WorkerLink, Workers
from pyqmail.policy.accounts import Accounts
from pyqmail.protocol import queued
from pyqmail.spool.layout import Layout
from pyqmail.system.loop import Loop
from pyqmail.warm import wire

ACCOUNTS = Accounts([1, 2, 3, 0, 4, 5, 6, 7], [8, 9], b"alias")


@pytest.fixture
def pair() -> Iterator[tuple[Workers, WorkerLink, socket.socket]]:
    """The workers, one of them that is only its end of the socket, and that end."""
    workers = Workers(Loop(), Layout("/nowhere", 23), ACCOUNTS, lambda _link, _uid: None)
    ours, theirs = wire.pair()
    ours.setblocking(False)
    link = WorkerLink(1, ours, Pulse(), 5000, 5000)
    workers.links.append(link)
    with ours, theirs:
        yield workers, link, theirs


@pytest.mark.parametrize("failure", [MemoryError(), OSError(12, "no memory"), ValueError("a bug")], ids=repr)
def test_a_job_whose_sending_failed_is_sent_at_the_next_look(
    pair: tuple[Workers, WorkerLink, socket.socket], failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, link, theirs = pair
    failures = deque([failure])
    send = wire.send_record

    def send_record(sock: socket.socket, payload: bytes, descriptors: tuple[int, ...]) -> None:
        if failures:
            raise failures.popleft()
        send(sock, payload, descriptors)

    monkeypatch.setattr(wire, "send_record", send_record)
    try:
        workers.give(link, 5000, socket.socketpair()[0], 7)
    except (MemoryError, ValueError):
        pass  # qmail-queued says so and goes on
    workers.give(link, 5000, socket.socketpair()[0], 8)
    workers.tick()
    serials = [queued.parse_job(wire.receive_record(theirs)[0])[1] for _ in range(2)]  # type: ignore[index]
    assert (serials, len(link.unsent)) == ([7, 8], 0)


def test_a_worker_that_was_not_told_to_end_is_told_at_the_next_look(
    pair: tuple[Workers, WorkerLink, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, link, theirs = pair
    say = module._say_no_more
    failures = deque([ValueError("a bug")])

    def say_no_more(link: WorkerLink) -> None:
        if failures:
            raise failures.popleft()
        say(link)

    monkeypatch.setattr(module, "_say_no_more", say_no_more)
    with pytest.raises(ValueError, match="a bug"):
        workers.retire(link)
    workers.tick()
    assert wire.receive_record(theirs) is None
