"""What strangers may hand to qmail-queued: it answers, gives back, and serves the others meanwhile as ever."""

import errno
import mmap
import os
import pwd
import resource
import select
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyqmail.intake.client import Injection, answer_of
from pyqmail.intake.shared import worker_count
from tests.attack.stranger import (
    KINDS,
    CannotAttack,
    Make,
    endless_pipe,
    every_socket,
    full_pipe,
    hand,
    of_socket,
    silent_file,
    stranger,
)
from tests.programs.lingering import lingering
from tests.spool.queue_tree import ORDINARY_UID, PYTHON, REPO, Tree, act_as
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs the users of a real tree")
OTHER_UID = ORDINARY_UID + 1
ANSWER_S = 0.5
TRIES = 3
FEW = 512  # descriptors that the service may have
MANY = 250  # descriptors in one record; the kernel takes 253
OWN_FILES_MAX = 16  # descriptors of a worker that has nothing to do


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=False)
    made.start_service()
    wait_for(lambda: len(shared_workers(made)) == worker_count(), "the workers")
    yield made
    made.close()


def children(tree: Tree) -> dict[int, str]:
    """The titles of the processes that the service has forked."""
    parent = tree.services[0].pid
    found = {}
    for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            found[int(word)] = Path(f"/proc/{word}/cmdline").read_bytes().strip(b"\0").decode()
        except OSError:
            continue
    return found


def shared_workers(tree: Tree) -> list[int]:
    return sorted(pid for pid, title in children(tree).items() if title == "qmail-queue")


def own_workers(tree: Tree, uid: int) -> list[int]:
    return sorted(pid for pid, title in children(tree).items() if title == f"qmail-queue for uid {uid}")


def files_of(pid: int) -> int:
    """How many descriptors ``pid`` has, 0 when it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def timed(uid: int, deed: Callable[[], int]) -> float:
    """How long ``deed`` of a process of ``uid`` took, which must end with 0."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act_as(uid)()
            before = time.monotonic()
            code = deed()
            os.write(writer, b"%f" % (time.monotonic() - before))
        finally:
            os._exit(code & 255)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    said = float(os.read(reader, 64))
    os.close(reader)
    return said


def submit(tree: Tree) -> int:
    """What bin/qmail-queue of an ordinary user does; its answer."""
    sock = tree.connect()
    hand(sock, [full_pipe(), full_pipe(b"Fa@b\0Tc@d\0\0")])
    return answer_of(sock)[0]


def inject(tree: Tree) -> int:
    """What qmail-smtpd does; the answer."""
    environ = {os.fsencode(name): os.fsencode(value) for name, value in tree.environ().items()}
    injection = Injection.open(str(tree.home), environ, warm=True)
    injection.write(b"Subject: x\n\nx\n")
    return injection.close(b"a@b", [b"c@d"]).status


def others_are_served(tree: Tree, shared: list[int]) -> None:
    """Another user and SMTP are answered at once, and no worker of our own programs has been harmed."""
    daemon = pwd.getpwnam("qmaild").pw_uid
    for uid, deed in ((OTHER_UID, submit), (daemon, inject)):
        times = [timed(uid, lambda deed=deed: deed(tree)) for _ in range(TRIES)]  # type: ignore[misc]
        assert statistics.median(times) < ANSWER_S, times
    assert shared_workers(tree) == shared


def nothing_stays(tree: Tree, files: int) -> None:
    """The service has the ``files`` of before, and a few for workers that still wait for the same user."""

    def settled() -> bool:
        mine = [pid for pid, title in children(tree).items() if title != "qmail-queue"]
        few = all(files_of(pid) <= OWN_FILES_MAX for pid in mine)
        return few and files_of(tree.services[0].pid) <= files + len(mine)

    wait_for(settled, "the descriptors to go")


def attacked(tree: Tree, deed: Callable[[], None]) -> None:
    """The others are served while a stranger does ``deed``, and nothing stays when he is gone."""
    shared, files = shared_workers(tree), files_of(tree.services[0].pid)
    try:
        with stranger(deed):
            others_are_served(tree, shared)
    except CannotAttack:
        pytest.skip("no user may do that here")
    others_are_served(tree, shared)
    nothing_stays(tree, files)


def hand_each(tree: Tree, makers: dict[str, Make], *, stay: bool) -> None:
    """Hand over one of each kind as a message, as an envelope, and three at once."""
    for make in makers.values():
        for place in range(3):
            try:
                odd = make()
            except OSError:
                continue  # not on this machine
            plain = full_pipe()
            sock = tree.connect()
            try:
                hand(sock, [[odd, plain], [plain, odd], [odd] * 3][place])
            except OSError as error:
                assert error.errno == errno.EINVAL  # the kernel passes no rings on
            os.close(odd)
            if stay:
                sock.detach()


@pytest.mark.parametrize("stay", [True, False], ids=["staying", "going at once"])
def test_no_kind_of_descriptor_harms_the_others(tree: Tree, stay: bool) -> None:
    attacked(tree, lambda: hand_each(tree, KINDS, stay=stay))


def test_no_family_of_sockets_harms_the_others(tree: Tree) -> None:
    made = every_socket()
    assert len(made) > 3
    attacked(tree, lambda: hand_each(tree, made, stay=False))


def held_pipe(page: memoryview) -> tuple[int, Callable[[], int]]:
    reader, writer = os.pipe()
    return reader, lambda: os.write(writer, page)


def held_socket(page: memoryview) -> tuple[int, Callable[[], int]]:
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    KEPT.append(server)
    return client.fileno(), lambda: client.send(page)


KEPT: list[socket.socket] = []
HELD = {"a pipe": held_pipe, "a socket": held_socket}


def hold(silent: Path, device: Path, kind: str) -> int:
    """A descriptor whose kernel lock a thread of this process holds: it writes from a page that never comes."""
    memory = mmap.mmap(silent_file(silent, device), 1 << 20, mmap.MAP_SHARED, mmap.PROT_READ)
    fd, deed = HELD[kind](memoryview(memory)[:4096])
    thread = threading.Thread(target=deed, daemon=True)
    thread.start()
    state = Path(f"/proc/self/task/{thread.native_id}/stat")
    wait_for(lambda: state.read_text().rsplit(")", 1)[1].split()[0] in "DS", "the thread to wait for its page")
    return fd


@pytest.mark.parametrize("count", [1, 60], ids=["one", "many"])
@pytest.mark.parametrize("stay", [True, False], ids=["staying", "going at once"])
@pytest.mark.parametrize("kind", HELD)
def test_a_descriptor_whose_lock_is_held_harms_the_others_not(
    tree: Tree, fuse: tuple[Path, Path], kind: str, stay: bool, count: int
) -> None:
    def deed() -> None:
        odd = hold(*fuse, kind)
        for number in range(count):
            sock = tree.connect()
            other = endless_pipe()
            hand(sock, [[odd, other], [other, odd], [odd]][number % 3])
            os.close(other)
            if stay:
                sock.detach()

    attacked(tree, deed)


def test_who_holds_his_own_worker_is_served_by_a_second_one_and_then_not_at_all(
    tree: Tree, fuse: tuple[Path, Path]
) -> None:
    def deed() -> None:
        odd = hold(*fuse, "a pipe")
        threading.Thread(target=lambda: knock_for_ever(tree, odd), daemon=True).start()

    try:
        with stranger(deed):
            wait_for(lambda: len(own_workers(tree, ORDINARY_UID)) == 2, "the second worker", 90)
            for _ in range(3):
                others_are_served(tree, shared_workers(tree))
                assert len(own_workers(tree, ORDINARY_UID)) == 2
    except CannotAttack:
        pytest.skip("no user may do that here")
    wait_for(lambda: timed(ORDINARY_UID, lambda: submit(tree)) < ANSWER_S, "the user to be served again")


def knock_for_ever(tree: Tree, odd: int) -> None:
    """Hand ``odd`` over again and again."""
    while True:
        with tree.connect() as sock:
            hand(sock, [odd, odd])
        select.select([], [], [], 0.02)


@pytest.mark.parametrize("count", [1, 3, MANY], ids=["one", "three", "as many as go"])
def test_a_wrong_number_of_lingering_sockets_does_not_stop_the_service(tree: Tree, count: int) -> None:
    def deed() -> None:
        sock = tree.connect()
        fds = [lingering() for _ in range(min(count, 8))]
        hand(sock, (fds * count)[:count])
        for fd in fds:
            os.close(fd)
        sock.detach()

    attacked(tree, deed)


@pytest.mark.parametrize("first", [None, b"", b"more"], ids=["at once", "after an empty record", "after another"])
def test_lingering_sockets_sent_after_the_request_do_not_stop_a_worker(tree: Tree, first: bytes | None) -> None:
    def deed() -> None:
        for _ in range(worker_count()):
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

    attacked(tree, deed)


def test_thousands_of_descriptors_and_silent_connections_of_one_uid_leave_room_for_others(tree: Tree) -> None:
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

    attacked(tree, deed)


def test_many_malformed_requests_with_a_socket_of_a_strange_family_leave_nothing(tree: Tree) -> None:
    vsock = of_socket(getattr(socket, "AF_VSOCK", 40), socket.SOCK_STREAM)
    try:
        os.close(vsock())
    except OSError as error:
        assert error.errno == errno.EAFNOSUPPORT
        pytest.skip("no AF_VSOCK here")

    def deed() -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        for _ in range(100):
            odd = vsock()
            with tree.connect() as sock:
                try:
                    hand(sock, [odd] + [null] * (MANY - 1))
                except OSError as error:
                    assert error.errno == errno.ETOOMANYREFS  # his own limit of what is on its way
            os.close(odd)

    attacked(tree, deed)


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
        wait_for(lambda: made.accepts() and len(shared_workers(made)) == worker_count(), "the workers")

        def deed() -> None:
            slow = endless_pipe()
            for _ in range(FEW):
                try:
                    sock = made.connect()
                    hand(sock, [slow, slow])
                except OSError:
                    continue  # refused already
                sock.detach()

        attacked(made, deed)
    finally:
        made.close()


def test_stopped_clients_hold_their_own_users_slots_only(tree: Tree) -> None:
    shared = shared_workers(tree)

    def deed() -> None:
        for _ in range(120):  # more than there are slots
            sock = tree.connect()
            hand(sock, [os.pipe()[0], os.pipe()[0]])
            sock.detach()

    with stranger(deed) as pid:
        os.kill(pid, signal.SIGSTOP)
        others_are_served(tree, shared)
    assert timed(ORDINARY_UID, lambda: submit(tree)) < ANSWER_S


def test_what_our_own_programs_would_never_send_is_not_touched_by_a_shared_worker(tree: Tree) -> None:
    shared = shared_workers(tree)
    path = str(tree.home / "run/qmail-queued.own")

    def deed() -> int:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(path)
        hand(sock, [lingering(), full_pipe()])
        return answer_of(sock)[0] - 81

    timed(pwd.getpwnam("qmaild").pw_uid, deed)
    wait_for(lambda: len(set(shared_workers(tree)) & set(shared)) == len(shared) - 1, "the worker to be replaced")
    wait_for(lambda: len(shared_workers(tree)) == worker_count(), "another worker")
    others_are_served(tree, shared_workers(tree))


def test_only_our_own_programs_users_reach_their_socket(tree: Tree) -> None:
    path = str(tree.home / "run/qmail-queued.own")

    def connect() -> int:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            return sock.connect_ex(path)

    for name in ("qmaild", "qmails", "alias"):
        timed(pwd.getpwnam(name).pw_uid, connect)
    timed(OTHER_UID, lambda: 0 if connect() == errno.EACCES else 1)


def test_a_stopped_worker_is_replaced_and_what_waits_for_it_is_told(tree: Tree) -> None:
    before = shared_workers(tree)
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    daemon = pwd.getpwnam("qmaild").pw_uid
    wait_for(lambda: set(shared_workers(tree)).isdisjoint(before) or _tried(daemon, tree), "new workers")
    wait_for(lambda: len(shared_workers(tree)) == worker_count(), "all workers")
    others_are_served(tree, shared_workers(tree))


def _tried(uid: int, tree: Tree) -> bool:
    """A submission that a stopped worker gets is lost, and the client hears so."""
    pid = os.fork()
    if pid == 0:
        try:
            act_as(uid)()
            inject(tree)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return False
