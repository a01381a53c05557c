"""The workers of qmail-verifyd come while all are busy, and those that are too many go."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyqmail.mailauth import service
from pyqmail.system.unix_listener import listen
from tests.waiting import wait_for

Asked = Callable[[], socket.socket]


def workers_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Asked]]:
    """The pid of a service whose workers soon have been idle for long, and how to become a client of it."""
    monkeypatch.setattr(service, "IDLE_S", 0.2)
    monkeypatch.setattr(service, "QUESTION_S", 120)  # a silent client has a worker for as long as the test needs
    listener = listen(str(tmp_path / "sock"))
    pid = os.fork()
    if pid == 0:
        try:
            service.Workers(str(tmp_path), listener, lambda uid: True).run()
        finally:
            os._exit(1)
    listener.close()

    def connect() -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(str(tmp_path / "sock"))
        return client

    try:
        wait_for(lambda: len(workers_of(pid)) == service.STAYING, "those that stay")
        yield pid, connect
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def test_there_are_as_many_as_clients_who_think_and_later_those_that_stay(parent: tuple[int, Asked]) -> None:
    pid, connect = parent
    silent = [connect() for _ in range(service.WORKERS)]
    wait_for(lambda: len(workers_of(pid)) == service.WORKERS, "a worker for each")
    with connect() as one_more:
        one_more.send(b"nothing to be answered")
        for client in silent:
            client.close()
        assert one_more.recv(10) == b""
    wait_for(lambda: len(workers_of(pid)) == service.STAYING, "the end of the others")


def test_a_killed_worker_is_replaced(parent: tuple[int, Asked]) -> None:
    pid, connect = parent
    for worker in (old := workers_of(pid)):
        os.kill(int(worker), signal.SIGKILL)
    with connect() as client:
        client.send(b"nothing to be answered")
        assert client.recv(10) == b""

    def replaced() -> bool:
        now = workers_of(pid)
        return len(now) == service.STAYING and not set(old) & set(now)

    wait_for(replaced, "new ones")
