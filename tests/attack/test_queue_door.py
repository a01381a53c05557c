"""What strangers may hand to qmail-queued: it answers, gives back, and serves the others meanwhile."""

import array
import os
import pty
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyqmail.intake.service import WORKERS_MAX
from pyqmail.protocol import queued
from tests.programs.lingering import lingering
from tests.spool.queue_tree import ORDINARY_UID, PYTHON, REPO, Tree, act_as
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs the users of a real tree")
OTHER_UID = ORDINARY_UID + 1
WORKERS = max(2, min(WORKERS_MAX, os.cpu_count() or 2))
FEW = 512  # descriptors that the service may have
MANY = 250  # descriptors in one record; the kernel takes 253
Descriptors = list[int]


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=False)
    made.start_service()
    wait_for(lambda: len(workers(made)) == WORKERS, "the workers")
    yield made
    made.close()


def hand(sock: socket.socket, fds: Descriptors, record: bytes = queued.format_request(serial=True)) -> None:
    """Send ``record`` with ``fds``."""
    ids = queued.format_credentials(os.getpid(), os.getuid(), os.getgid())
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())
    sock.sendmsg([record], [rights, (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, ids)])


def full_pipe() -> int:
    """A complete message."""
    reader, writer = os.pipe()
    os.write(writer, b"Subject: x\n\nx\n")
    os.close(writer)
    return reader


def of_file(path: str, flags: int = os.O_RDONLY) -> Callable[[], int]:
    return lambda: os.open(path, flags)


def of_socket(*words: int) -> Callable[[], int]:
    return lambda: socket.socket(*words).detach()


def listening() -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


def sparse() -> int:
    fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.truncate(fd, 1 << 42)
    return fd


def endless_pipe() -> int:
    return os.pipe()[0]  # the other end stays open


ODD = {
    "a directory": of_file("/tmp"),
    "a path": of_file("/etc/passwd", os.O_PATH),
    "a file for writing": of_file("/dev/null", os.O_WRONLY),
    "/dev/null": of_file("/dev/null"),
    "a terminal": lambda: pty.openpty()[1],
    "an unconnected TCP socket": of_socket(socket.AF_INET, socket.SOCK_STREAM),
    "a listening socket": listening,
    "a UDP socket": of_socket(socket.AF_INET, socket.SOCK_DGRAM),
    "a netlink socket": of_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "a local socket": of_socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "the wrong end of a pipe": lambda: os.pipe()[1],
    "a pipe that never ends": endless_pipe,
    "an event counter": lambda: os.eventfd(0),
    "a process": lambda: os.pidfd_open(os.getpid()),
    "a huge sparse file": sparse,
    "a lingering connection": lingering,
}


@contextmanager
def stranger(deed: Callable[[], None]) -> Iterator[int]:
    """The pid of a process of ORDINARY_UID that has done ``deed``; it lives until the block ends."""
    done, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            act_as(ORDINARY_UID)()
            deed()
            os.write(told, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(told)
    try:
        assert os.read(done, 1) == b"1", "the stranger failed"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(done)


def workers(tree: Tree) -> list[int]:
    parent = tree.services[0].pid
    return sorted(int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split())


def submits(tree: Tree, uid: int) -> bool:
    """Whether a message of ``uid`` is queued within the deadline."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act_as(uid)()
            sock = tree.connect()
            message, envelope = full_pipe(), os.pipe()
            os.write(envelope[1], b"Fa@b\0Tc@d\0\0")
            hand(sock, [message, envelope[0]])
            answer = queued.parse_answer(sock.recv(64))
            code = 1 if answer is None else answer[0]
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def others_are_served(tree: Tree, before: list[int]) -> None:
    """Each worker and the parent still do their work, and no worker has died."""
    for _ in range(2 * WORKERS):
        assert submits(tree, OTHER_UID)
    assert workers(tree) == before


@pytest.mark.parametrize("place", ["message", "envelope"])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_descriptor_harms_nobody_else(tree: Tree, kind: str, place: str) -> None:
    before = workers(tree)

    def deed() -> None:
        for _ in range(len(before)):  # one for each worker
            sock = tree.connect()
            odd, plain = ODD[kind](), full_pipe()
            hand(sock, [odd, plain] if place == "message" else [plain, odd])
            os.close(odd)
            if not kind.startswith("a pipe"):
                os.close(plain)
            sock.detach()

    with stranger(deed):
        others_are_served(tree, before)
    others_are_served(tree, before)


@pytest.mark.parametrize("count", [1, 3, MANY], ids=["one", "three", "as many as go"])
def test_a_wrong_number_of_lingering_sockets_does_not_stop_the_service(tree: Tree, count: int) -> None:
    before = workers(tree)

    def deed() -> None:
        sock = tree.connect()
        fds = [lingering() for _ in range(min(count, 8))]
        hand(sock, (fds * count)[:count])
        for fd in fds:
            os.close(fd)
        sock.detach()

    with stranger(deed):
        others_are_served(tree, before)


@pytest.mark.parametrize("first", [None, b"", b"more"], ids=["at once", "after an empty record", "after another"])
def test_lingering_sockets_sent_after_the_request_do_not_stop_a_worker(tree: Tree, first: bytes | None) -> None:
    before = workers(tree)

    def deed() -> None:
        for _ in range(len(before)):
            sock = tree.connect()
            hand(sock, [os.pipe()[0], full_pipe()])
            fd = lingering()
            try:
                if first is not None:
                    sock.send(first)
                hand(sock, [fd])
                os.close(fd)
            except BrokenPipeError:
                pass  # hung up on at once
            sock.shutdown(socket.SHUT_WR)
            sock.detach()

    with stranger(deed):
        others_are_served(tree, before)


def test_thousands_of_descriptors_and_silent_connections_of_one_uid_leave_room_for_others(tree: Tree) -> None:
    before = workers(tree)

    def deed() -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        for number in range(700):
            try:
                sock = tree.connect()
                if number % 2:
                    hand(sock, [null] * MANY)
            except OSError:
                continue  # refused already
            sock.detach()

    with stranger(deed):
        others_are_served(tree, before)
    wait_for(lambda: len(os.listdir(f"/proc/{tree.services[0].pid}/fd")) < 40, "the descriptors to go")


def test_one_uid_cannot_have_all_descriptors_of_a_small_limit() -> None:
    made = Tree(single_user=False)
    try:
        service = subprocess.Popen(
            [*PYTHON, str(REPO / "bin/qmail-queued")],
            env=made.environ(),
            stderr=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW)),
        )
        made.services.append(service)
        wait_for(lambda: made.accepts() and len(workers(made)) == WORKERS, "the workers")
        before = workers(made)

        def deed() -> None:
            slow = endless_pipe()
            for _ in range(FEW):
                try:
                    sock = made.connect()
                    hand(sock, [slow, slow])
                except OSError:
                    continue  # refused already
                sock.detach()

        with stranger(deed):
            others_are_served(made, before)
    finally:
        made.close()


def test_stopped_clients_hold_their_own_users_slots_only(tree: Tree) -> None:
    before = workers(tree)

    def deed() -> None:
        for _ in range(120):  # more than there are slots
            sock = tree.connect()
            hand(sock, [os.pipe()[0], os.pipe()[0]])
            sock.detach()

    with stranger(deed) as pid:
        os.kill(pid, signal.SIGSTOP)
        others_are_served(tree, before)
    assert submits(tree, ORDINARY_UID)
