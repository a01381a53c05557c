"""qmail-queued as a process: who may do what to it, and what it survives."""

import array
import fcntl
import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.formats.facts import Facts, format_facts
from pyqmail.intake.serials import FIRST_SERIAL, SERIAL_BLOCK, Serials
from pyqmail.intake.shared import worker_count
from pyqmail.protocol import queued
from pyqmail.spool import facts
from pyqmail.spool.layout import Layout
from tests.spool.queue_tree import DEADLINE_SECONDS, ORDINARY_UID, PYTHON, REPO, Tree, act_as
from tests.waiting import wait_for

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs the users of a real tree")


class Client:
    """A hand-made client: the connection and the write ends of its pipes."""

    def __init__(
        self, tree: Tree, *, serial: bool = True, facts: bytes = b"", connection: socket.socket | None = None
    ) -> None:
        self.connection = connection or tree.connect()
        message, self.message = os.pipe()
        envelope, self.envelope = os.pipe()
        send(self.connection, queued.format_request(serial=serial, facts=facts), [message, envelope])
        os.close(message)
        os.close(envelope)
        self.open = [self.message, self.envelope]

    def put(self, fd: int, data: bytes, *, end: bool = True) -> None:
        os.write(fd, data)
        if end:
            os.close(fd)
            self.open.remove(fd)

    def submit(self) -> tuple[int, int] | None:
        self.put_all()
        return self.answer()

    def put_all(self) -> None:
        self.put(self.message, b"body\n")
        self.put(self.envelope, b"Fa\0Tb\0\0")

    def answer(self) -> tuple[int, int] | None:
        self.connection.settimeout(DEADLINE_SECONDS)
        return queued.parse_answer(self.connection.recv(64))

    def answered(self) -> bool:
        self.connection.setblocking(False)
        try:
            return bool(self.connection.recv(64, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.connection.close()
        for fd in self.open:
            os.close(fd)
        self.open = []


def test_facts_come_with_the_request_and_are_queued(tree: Tree) -> None:
    tree.start_service()
    client = Client(tree, facts=format_facts(Facts(envid=b"id"), b"a"))
    assert client.submit() is not None
    client.close()
    layout = Layout(str(tree.home), 23)
    (number,) = tree.todo()
    assert facts.read(layout, number) == Facts(envid=b"id")
    assert os.stat(layout.facts(number)).st_uid == tree.owner


def test_a_request_with_more_than_facts_may_have_is_none(tree: Tree) -> None:
    tree.start_service()
    client = Client(tree)
    client.close()
    sock = tree.connect()
    pipe = os.pipe()
    send(sock, b"pq1\0" + bytes(queued.FACTS_MAX + 1), list(pipe))
    assert queued.parse_answer(sock.recv(64)) == (81, 0)
    sock.close()
    for fd in pipe:
        os.close(fd)


def send(sock: socket.socket, record: bytes, fds: list[int], *, credentials: bool = True) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())
    ids = queued.format_credentials(os.getpid(), os.getuid(), os.getgid())
    creds = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, ids)
    sock.sendmsg([record], [rights, creds] if credentials else [rights])


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree(single_user=os.getuid() != 0)
    yield made
    made.close()


@pytest.fixture
def service(tree: Tree) -> "subprocess.Popen[bytes]":
    return tree.start_service()


@pytest.mark.usefixtures("service")
def test_serials_start_above_any_pid_and_never_repeat(tree: Tree) -> None:
    clients = [Client(tree) for _ in range(3)]
    answers = [client.submit() for client in clients]
    numbers = {answer[1] for answer in answers if answer is not None and answer[0] == 0}
    assert len(numbers) == 3 and min(numbers) >= FIRST_SERIAL
    tree.services[0].terminate()
    assert tree.services[0].wait(DEADLINE_SECONDS) == 0
    tree.start_service()
    again = Client(tree)
    answer = again.submit()
    assert answer is not None and answer[1] >= FIRST_SERIAL + SERIAL_BLOCK > max(numbers)
    for client in (*clients, again):
        client.close()


def test_a_serial_is_reserved_on_disk_before_it_is_given_out(tree: Tree) -> None:
    serials = Serials(str(tree.home / "run/serial"))
    first = serials.take()
    assert int((tree.home / "run/serial").read_text()) > first
    assert Serials(str(tree.home / "run/serial")).take() == first + SERIAL_BLOCK


@pytest.mark.usefixtures("service")
def test_without_a_serial_the_clients_pid_names_the_submission(tree: Tree) -> None:
    client = Client(tree, serial=False)
    assert client.submit() == (0, os.getpid())
    client.close()


@pytest.mark.usefixtures("service")
def test_slow_senders_do_not_delay_others(tree: Tree) -> None:
    slow = [Client(tree) for _ in range(50)]
    for client in slow:
        client.put(client.message, b"half", end=False)
    quick = Client(tree)
    answer = quick.submit()
    assert answer is not None and answer[0] == 0
    for client in (*slow, quick):
        client.close()
    wait_for(lambda: len(tree.messages()) == 1, "the message")


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("whole", [False, True], ids=["in the message", "before the final NUL"])
def test_a_client_that_goes_away_leaves_nothing(tree: Tree, whole: bool) -> None:
    client = Client(tree)
    client.put(client.message, b"half", end=whole)
    if whole:
        client.put(client.envelope, b"Fa\0Tb\0", end=False)
    client.connection.close()
    with pytest.raises(BrokenPipeError):  # the service has let go of the pipe
        while True:
            os.write(client.envelope if whole else client.message, b"T\0" if whole else b"x")
    client.close()
    assert tree.todo() == [] and tree.messages() == [] and tree.leftovers() == []


def test_slots_are_per_uid_and_the_rest_waits(tree: Tree) -> None:
    (tree.home / "control/conf-queueslots").write_text("2\n")
    tree.start_service()
    holders = [Client(tree), Client(tree)]
    waiting = Client(tree)
    waiting.put(waiting.message, b"m\n")
    waiting.put(waiting.envelope, b"Fa\0Tb\0\0")
    if os.getuid() == 0:  # another uid is not held up
        child = os.fork()
        if child == 0:
            try:
                act_as(ORDINARY_UID)()
                answer = Client(tree).submit()
                os._exit(0 if answer is not None and answer[0] == 0 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not waiting.answered()
    holders[0].close()
    answer = waiting.answer()
    assert answer is not None and answer[0] == 0
    for client in (*holders, waiting):
        client.close()


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_other_than_two_descriptors_are_refused_and_closed(tree: Tree, count: int) -> None:
    sock = tree.connect()
    pipes = [os.pipe() for _ in range(max(count, 1))]
    if count:
        send(sock, queued.format_request(serial=True), [read for read, _ in pipes])
    else:
        sock.send(queued.format_request(serial=True))
    sock.settimeout(DEADLINE_SECONDS)
    answer = queued.parse_answer(sock.recv(64))
    assert answer is not None and answer[0] == 81
    assert sock.recv(64) == b""
    for read, write in pipes:
        os.close(read)
        with pytest.raises(BrokenPipeError):
            os.write(write, b"x")
        os.close(write)
    sock.close()


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("record", [b"x", b"pq1", b"pq1\xff", b"pq2\0", b"x" * 100])
def test_a_malformed_request_is_refused(tree: Tree, record: bytes) -> None:
    sock = tree.connect()
    read, write = os.pipe()
    send(sock, record, [read, read])
    answer = queued.parse_answer(sock.recv(64))
    assert answer is not None and answer[0] == 81
    for fd in (read, write):
        os.close(fd)
    sock.close()


@needs_root
@pytest.mark.usefixtures("service")
def test_nobody_can_claim_the_ids_of_another(tree: Tree) -> None:
    child = os.fork()
    if child == 0:
        code = 2
        try:
            act_as(ORDINARY_UID)()
            sock = tree.connect()
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 0]).tobytes())
            ids = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, queued.format_credentials(os.getpid(), 0, 0))
            try:
                sock.sendmsg([queued.format_request(serial=True)], [rights, ids])
            except PermissionError:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def title_of(pid: int) -> bytes:
    """What ps shows of a process; nothing once it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().strip(b"\0")
    except FileNotFoundError:
        return b""


def shared_workers(pid: int) -> list[int]:
    """The workers of service ``pid`` for our own warm programs."""
    return [child for child in children(pid) if title_of(child) == b"qmail-queue"]


def test_a_worker_that_dies_is_replaced_and_its_client_sees_the_end(
    tree: Tree, service: "subprocess.Popen[bytes]"
) -> None:
    wait_for(lambda: len(shared_workers(service.pid)) == worker_count(), "the workers")
    client = Client(tree)
    client.put(client.message, b"half", end=False)
    wait_for(lambda: passed_on(service.pid), "a worker with the submission")
    workers = children(service.pid)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert client.answer() is None
    wait_for(lambda: len(set(shared_workers(service.pid)) - set(workers)) == worker_count(), "new workers")
    after = Client(tree)
    answer = after.submit()
    assert answer is not None and answer[0] == 0
    client.close()
    after.close()
    assert len(tree.todo()) == 1


def test_sigterm_finishes_what_is_open(tree: Tree, service: "subprocess.Popen[bytes]") -> None:
    client = Client(tree)
    client.put(client.message, b"half", end=False)
    wait_for(lambda: passed_on(service.pid), "a worker with the message")
    service.terminate()
    wait_for(lambda: not tree.accepts(), "the end of the door")
    answer = client.submit()
    assert answer is not None and answer[0] == 0
    assert service.wait(DEADLINE_SECONDS) == 0
    assert len(tree.todo()) == 1
    client.close()


def begun(pid: int) -> int:
    """How many messages, files without a name, the workers of service ``pid`` have open."""
    count = 0
    for worker in children(pid):
        try:
            targets = [os.readlink(path) for path in Path(f"/proc/{worker}/fd").iterdir()]
        except FileNotFoundError:
            continue  # it has closed one meanwhile, or has ended: the next look is the one
        count += sum("/queue/pyqmail/drafts/" in target and "#" in target for target in targets)
    return count


def passed_on(pid: int) -> bool:
    """Whether a worker of service ``pid`` has begun a message."""
    return begun(pid) > 0


def at_own_door(tree: Tree) -> socket.socket:
    """A connection of one of our own programs, which runs as alias."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.getuid() == 0:
        os.seteuid(pwd.getpwnam("alias").pw_uid)
    try:
        sock.connect(str(tree.home / "run/qmail-queued.own"))
    finally:
        os.seteuid(os.getuid())
    return sock


def own_door_is_open(tree: Tree) -> bool:
    try:
        at_own_door(tree).close()
    except (FileNotFoundError, ConnectionRefusedError, PermissionError):  # before it has its access list
        return False
    return True


def test_at_our_own_door_too_a_uid_has_its_slots_and_the_rest_waits(tree: Tree) -> None:
    (tree.home / "control/conf-queueslots").write_text("8\n")
    service = tree.start_service()
    wait_for(lambda: len(shared_workers(service.pid)) == worker_count(), "the workers")
    wait_for(lambda: own_door_is_open(tree), "our own door")
    clients = [Client(tree, connection=at_own_door(tree)) for _ in range(20)]
    most = 8 if os.getuid() == 0 else 20  # who has the tree for himself is qmaild too
    wait_for(lambda: begun(service.pid) == most, "as many as there are slots")
    assert not any(client.answered() for client in clients)  # those that wait are not refused
    other = Client(tree)  # the parent has a turn
    assert other.submit() is not None
    wait_for(lambda: begun(service.pid) == most, "no more than there are slots")
    for client in (*clients[1::2], *clients[::2]):  # whichever ends makes room for one that waits
        client.put_all()
    for client in clients:
        answer = client.answer()
        assert answer is not None and answer[0] == 0
    for client in (other, *clients):
        client.close()
    assert len(tree.todo()) == 21


def test_sigterm_shuts_our_own_door_at_once_and_finishes_what_came_by_it(
    tree: Tree, service: "subprocess.Popen[bytes]"
) -> None:
    wait_for(lambda: own_door_is_open(tree), "our own door")
    client = Client(tree, connection=at_own_door(tree))
    client.put(client.message, b"half", end=False)
    wait_for(lambda: passed_on(service.pid), "a worker with the message")
    service.terminate()

    def refused() -> bool:
        try:
            at_own_door(tree).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_for(refused, "the end of the door")
    answer = client.submit()
    assert answer is not None and answer[0] == 0
    assert service.wait(DEADLINE_SECONDS) == 0
    client.close()


def test_when_the_parent_is_killed_its_workers_leave_our_own_door(
    tree: Tree, service: "subprocess.Popen[bytes]"
) -> None:
    workers = shared_workers(service.pid)
    wait_for(lambda: own_door_is_open(tree), "our own door")
    client = Client(tree, connection=at_own_door(tree))
    client.put(client.message, b"half", end=False)
    wait_for(lambda: passed_on(service.pid), "a worker with the message")
    service.kill()
    service.wait(DEADLINE_SECONDS)
    with pytest.raises(ConnectionRefusedError):
        while True:
            at_own_door(tree).close()
    tree.start_service()
    wait_for(lambda: own_door_is_open(tree), "the new door")
    again = Client(tree, connection=at_own_door(tree))
    answer = again.submit()
    assert answer is not None and answer[0] == 0
    for one in (client, again):
        one.close()
    wait_for(lambda: not any(title_of(pid) == b"qmail-queue" for pid in workers), "the end of the old workers")


def test_numbers_do_not_repeat_whoever_accepts(tree: Tree, service: "subprocess.Popen[bytes]") -> None:
    wait_for(lambda: len(shared_workers(service.pid)) == worker_count(), "the workers")
    wait_for(lambda: own_door_is_open(tree), "our own door")
    clients = [Client(tree, connection=at_own_door(tree)) for _ in range(120)]  # more than a uid has slots
    numbers = set()
    for client in clients:
        answer = client.submit()
        assert answer is not None and answer[0] == 0
        numbers.add(answer[1])
        client.close()
    assert len(numbers) == 120 and min(numbers) >= FIRST_SERIAL


def test_only_one_serves_a_home_and_a_stale_socket_is_replaced(tree: Tree) -> None:
    first = tree.start_service()
    second = subprocess.run(
        [*PYTHON, str(REPO / "bin/qmail-queued")], env=tree.environ(), capture_output=True, check=False
    )
    assert (second.returncode, second.stderr) == (111, b"qmail-queued: fatal: already running\n")
    first.kill()
    first.wait(DEADLINE_SECONDS)
    tree.start_service()


def test_socket_and_directory_have_their_owners_and_modes(tree: Tree) -> None:
    os.rmdir(tree.home / "run")
    tree.home.chmod(0o755)
    tree.start_service()
    run, sock = (tree.home / "run").stat(), (tree.home / "run/qmail-queued.sock").stat()
    assert (run.st_uid, run.st_mode & 0o777) == (tree.owner, 0o755)
    assert (sock.st_uid, sock.st_mode & 0o777) == (tree.owner, 0o666)


def test_an_inherited_socket_is_served(tree: Tree) -> None:
    path = str(tree.home / "run/qmail-queued.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    at_three = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, 10)

    def place() -> None:
        os.dup2(at_three, 3, inheritable=True)

    service = subprocess.Popen(
        [*PYTHON, str(REPO / "bin/qmail-queued")],
        env=tree.environ(LISTEN_FDS="1"),
        preexec_fn=place,
        close_fds=False,
        stderr=subprocess.PIPE,
    )
    tree.services.append(service)
    listener.close()
    os.close(at_three)
    client = Client(tree)
    answer = client.submit()
    assert answer is not None and answer[0] == 0
    client.close()
