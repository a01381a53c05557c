"""qmail-queue as a process: as a client of qmail-queued, as the queue's owner, and as root."""

import fcntl
import os
import pwd
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from tests.spool.queue_tree import (
    DEADLINE_SECONDS,
    ORDINARY_UID,
    PYTHON,
    REPO,
    Tree,
    act_as,
    qmail_queue,
    run_with,
    start_qmail_queue,
)
from tests.waiting import wait_for

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs the users of a real tree")


class Way:
    """A tree and the uid that calls qmail-queue in it."""

    def __init__(self, tree: Tree, uid: int, *, service: bool) -> None:
        self.tree = tree
        self.uid = uid
        if service:
            tree.start_service()

    def run(self, message: bytes, envelope: bytes) -> tuple[int, int]:
        return qmail_queue(self.tree, message, envelope, uid=self.uid)


@pytest.fixture(params=["client", "single-user", "root"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    single = request.param == "single-user"
    if os.getuid() != 0 and not single:
        pytest.skip("needs the users of a real tree")
    tree = Tree(single_user=single)
    uid = {"client": ORDINARY_UID, "single-user": tree.owner, "root": 0}[request.param]
    yield Way(tree, uid, service=request.param == "client")
    tree.close()


@pytest.mark.contract("queue 3.1", "queue 3.2", "queue 5.18", "queue 6.4", "queue 12.3", "queue 12.4", "queue 7.1")
def test_a_message_is_queued_with_real_uid_and_pid(way: Way) -> None:
    status, pid = way.run(b"Subject: hi\n\nbody", b"Fann@a\0Tbob@b\0\0")
    assert status == 0
    (number,) = way.tree.todo()
    message, envelope = way.tree.read(number)
    assert envelope == b"u%d\0p%d\0Fann@a\0Tbob@b\0" % (way.uid, pid)
    line, rest = message.split(b"\n", 1)
    assert re.fullmatch(
        rb"Received: \(qmail %d invoked by uid %d\); \d+ [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d -0000" % (pid, way.uid),
        line,
    )
    assert rest == b"Subject: hi\n\nbody"
    (path,) = way.tree.messages()
    assert path.stat().st_uid == way.tree.owner and path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("envelope", "status"),
    [
        pytest.param(b"Fann\0\0", 0, id="no recipients", marks=pytest.mark.contract("queue 5.19")),
        pytest.param(b"F\0T\0\0", 0, id="empty addresses", marks=pytest.mark.contract("queue 5.19")),
        pytest.param(b"Fa\0Tb\0\0Xjunk", 0, id="junk after the end", marks=pytest.mark.contract("queue 5.20")),
        pytest.param(b"", 54, id="no envelope", marks=pytest.mark.contract("queue 5.21", "queue 5.14")),
        pytest.param(b"Fa\0Tb\0", 54, id="no final NUL", marks=pytest.mark.contract("queue 5.21")),
        pytest.param(b"Ta\0\0", 91, id="first record not F", marks=pytest.mark.contract("queue 5.22", "queue 5.14")),
        pytest.param(b"Fa\0Fb\0\0", 91, id="second record not T", marks=pytest.mark.contract("queue 5.22")),
        pytest.param(b"Fa\0T" + b"x" * 1002 + b"\0\0", 0, id="1002 bytes", marks=pytest.mark.contract("queue 1.4")),
        pytest.param(b"Fa\0T" + b"x" * 1003 + b"\0\0", 11, id="1003 bytes", marks=pytest.mark.contract("queue 7.2")),
        pytest.param(b"Fa\r\n\xff\0Tb\n\0\0", 0, id="odd bytes", marks=pytest.mark.contract("queue 5.23")),
    ],
)
def test_envelopes(way: Way, envelope: bytes, status: int) -> None:
    assert way.run(b"m\n", envelope)[0] == status
    assert len(way.tree.todo()) == (status == 0)
    if status == 0:
        stored = way.tree.read(way.tree.todo()[0])[1]
        assert (
            stored.split(b"\0", 2)[2] == envelope.split(b"\0\0X")[0].removesuffix(b"\0\0") + b"\0" or b"T\0" in stored
        )


@pytest.mark.contract("queue 12.10")
@pytest.mark.parametrize("body", [b"", b"no newline", b"\0\xff\r\n" * 7, b"x" * 60000])
def test_bodies_are_stored_as_they_are(way: Way, body: bytes) -> None:
    assert way.run(body, b"Fa\0Tb\0\0")[0] == 0
    assert way.tree.read(way.tree.todo()[0])[0].split(b"\n", 1)[1] == body


def test_a_message_and_an_envelope_larger_than_a_pipe(way: Way) -> None:
    body, recipients = os.urandom(1 << 20) * 3, b"".join(b"Tuser%d@host\0" % n for n in range(20000))
    child, message, envelope = start_qmail_queue(way.tree, uid=way.uid)
    for fd, data in ((message, body), (envelope, b"Fann\0" + recipients + b"\0")):
        with open(fd, "wb") as pipe:
            pipe.write(data)
    assert child.wait(DEADLINE_SECONDS) == 0
    message_bytes, stored = way.tree.read(way.tree.todo()[0])
    assert message_bytes.split(b"\n", 1)[1] == body
    assert stored.split(b"\0", 2)[2] == b"Fann\0" + recipients


def unread(pipe: int) -> int:
    """How many bytes wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_the_envelope_is_not_read_before_the_message_has_ended(way: Way) -> None:
    child, message, envelope = start_qmail_queue(way.tree, uid=way.uid)
    os.write(envelope, b"Xbroken\0")
    os.write(message, b"x")
    wait_for(lambda: unread(message) == 0, "the message to be read")
    assert unread(envelope) == len(b"Xbroken\0") and child.poll() is None
    os.close(message)
    assert child.wait(DEADLINE_SECONDS) == 91
    os.close(envelope)


@pytest.mark.contract("queue 5.24", "queue 5.11")
@pytest.mark.parametrize("closed", [0, 1])
def test_a_closed_descriptor_is_a_read_error(way: Way, closed: int) -> None:
    def close() -> None:
        os.close(closed)
        act_as(way.uid)()

    child = subprocess.Popen(
        [*PYTHON, str(REPO / "bin/qmail-queue")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=way.tree.environ(),
        preexec_fn=close,
    )
    assert child.wait(DEADLINE_SECONDS) == 54


@pytest.mark.parametrize("part", ["message", "envelope"])
def test_a_descriptor_that_is_only_for_writing_is_a_read_error(way: Way, part: str) -> None:
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    fds = (write, null) if part == "message" else (null, write)
    assert run_with(way.tree, *fds, uid=way.uid).wait(DEADLINE_SECONDS) == 54
    for fd in (read, write, null):
        os.close(fd)


def test_regular_files_are_read(way: Way) -> None:
    for name, data in (("message", b"from a file\n"), ("envelope", b"Fa\0Tb\0\0")):
        (way.tree.home / name).write_bytes(data)
    message = os.open(way.tree.home / "message", os.O_RDONLY)
    envelope = os.open(way.tree.home / "envelope", os.O_RDONLY)
    assert run_with(way.tree, message, envelope, uid=way.uid).wait(DEADLINE_SECONDS) == 0
    assert way.tree.read(way.tree.todo()[0])[0].endswith(b"\nfrom a file\n")
    os.close(message)
    os.close(envelope)


@pytest.mark.parametrize("pair", [0, 1], ids=["blocking", "non-blocking"])
def test_sockets_are_read_and_the_callers_flags_are_left_alone(way: Way, pair: int) -> None:
    import socket

    ends = [socket.socketpair(), socket.socketpair()]
    for ours, theirs in ends:
        ours.setblocking(True)
        theirs.setblocking(not pair)
    child = run_with(way.tree, ends[0][1].fileno(), ends[1][1].fileno(), uid=way.uid)
    ends[0][0].sendall(b"by socket\n")
    ends[0][0].shutdown(socket.SHUT_WR)
    ends[1][0].sendall(b"Fa\0Tb\0\0")
    assert child.wait(DEADLINE_SECONDS) == 0
    for ours, theirs in ends:
        assert os.get_blocking(theirs.fileno()) == (not pair)
        ours.close()
        theirs.close()


@pytest.mark.contract("queue 5.2")
def test_no_home_is_61(way: Way) -> None:
    moved = way.tree.home.rename(way.tree.home.with_suffix(".away"))
    assert way.run(b"", b"F\0\0")[0] == 61
    moved.rename(way.tree.home)


@pytest.mark.contract("queue 5.3", "queue 7.5")
def test_no_queue_is_62(way: Way) -> None:
    moved = way.tree.queue.rename(way.tree.home / "away")
    assert way.run(b"", b"F\0\0")[0] == 62
    moved.rename(way.tree.queue)


@needs_root
@pytest.mark.contract("queue 5.4")
def test_a_missing_account_is_named_and_111() -> None:
    tree = Tree(single_user=False)
    (tree.home / "control/conf-users").write_text("nosuchuser\n" + "root\n" * 7)
    done = subprocess.run(
        [*PYTHON, str(REPO / "bin/qmail-queue")], env=tree.environ(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (111, b"fatal: unable to find user nosuchuser\n")
    tree.close()


@pytest.mark.contract("queue 5.1", "queue 5.5", "queue 5.6", "queue 1.5", "queue 12.8")
def test_signals_that_are_ignored_and_those_that_end_it(way: Way) -> None:
    def blocked() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGALRM])
        act_as(way.uid)()

    message, pipe = os.pipe()
    child = subprocess.Popen(
        [*PYTHON, str(REPO / "bin/qmail-queue")], stdin=message, env=way.tree.environ(), preexec_fn=blocked
    )
    status = f"/proc/{child.pid}/status"

    def field(name: str) -> int:
        with open(status) as file:
            return int(next(line for line in file if line.startswith(name)).split()[1], 16)

    wait_for(lambda: field("SigCgt") & 1 << signal.SIGALRM - 1, "its alarm")
    wait_for(lambda: field("SigBlk") == 0, "its signals")
    for number in ("PIPE", "VTALRM", "PROF", "QUIT", "INT", "HUP", "XCPU", "XFSZ"):
        assert field("SigIgn") & 1 << getattr(signal, "SIG" + number) - 1
    child.send_signal(signal.SIGALRM)
    assert child.wait(DEADLINE_SECONDS) == 52
    os.close(message)
    os.close(pipe)


@needs_root
@pytest.mark.contract("queue 6.1", "queue 6.2", "queue 6.3")
@pytest.mark.parametrize(("user", "how"), [("alias", "by alias"), ("qmaild", "from network"), ("qmails", "for bounce")])
def test_the_roles_are_recognised_by_real_uid(user: str, how: str) -> None:
    tree = Tree(single_user=False)
    tree.start_service()
    assert qmail_queue(tree, b"", b"F\0\0", uid=pwd.getpwnam(user).pw_uid)[0] == 0
    assert f"invoked {how});".encode() in tree.read(tree.todo()[0])[0]
    tree.close()


@needs_root
@pytest.mark.contract("queue 12.3")
def test_an_effective_qmailq_writes_itself_and_records_the_real_uid() -> None:
    tree = Tree(single_user=False)

    def change() -> None:
        os.setgroups([])
        os.setresgid(1, 1, 1)
        os.setresuid(ORDINARY_UID, tree.owner, tree.owner)

    message, pipe = os.pipe()
    envelope, envelope_pipe = os.pipe()
    os.close(pipe)
    os.write(envelope_pipe, b"F\0\0")
    child = subprocess.Popen(
        [*PYTHON, str(REPO / "bin/qmail-queue")], stdin=message, stdout=envelope, env=tree.environ(), preexec_fn=change
    )
    assert child.wait(DEADLINE_SECONDS) == 0
    assert tree.read(tree.todo()[0])[1].startswith(b"u%d\0" % ORDINARY_UID)
    for fd in (message, envelope, envelope_pipe):
        os.close(fd)
    tree.close()


@needs_root
@pytest.mark.contract("queue 7.7")
def test_without_a_service_an_ordinary_user_gets_73_within_the_retry_time() -> None:
    tree = Tree(single_user=False)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pyqmail.intake import client; client.CONNECT_SECONDS = 0.2\n"
    )
    code += "from pyqmail.programs.qmail_queue import main; import os; os._exit(main([], os.environb))"
    child = subprocess.run(
        [*PYTHON, "-c", code, str(REPO)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=tree.environ(),
        preexec_fn=act_as(ORDINARY_UID),
        check=False,
    )
    assert child.returncode == 73
    tree.close()


@needs_root
def test_a_client_that_comes_before_its_service_is_served() -> None:
    tree = Tree(single_user=False)
    child, message, envelope = start_qmail_queue(tree)
    os.close(message)
    os.write(envelope, b"Fa\0Tb\0\0")
    os.close(envelope)
    tree.start_service()
    assert child.wait(DEADLINE_SECONDS) == 0
    tree.close()


def test_starting_it_imports_little() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import pyqmail.programs.qmail_queue; print(*sys.modules)"
    loaded = subprocess.run([*PYTHON, "-c", code, str(REPO)], capture_output=True, check=True).stdout.decode().split()
    heavy = {"socket", "typing", "dataclasses", "re", "enum", "signal", "subprocess", "pathlib", "selectors", "array"}
    assert not heavy & set(loaded)
