"""qmail-xferd and qmail-q xfer as processes: a queue moves to another node with all that is known of it."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyqmail.formats.facts import Facts, Transfer, format_facts
from pyqmail.formats.todo import parse_todo
from pyqmail.policy.transfer_peers import TransferPeer, parse_peers
from pyqmail.remote.transfer import PeerUnreachable, TransferConnection
from pyqmail.stream.stream import StreamEnded
from tests.certificates import self_signed, signed_by
from tests.crash import scenario
from tests.programs.sending import BIN, DEADLINE_S, Sending
from tests.programs.test_qmail_q import Asking, deferred, left, q
from tests.waiting import wait_for

__all__ = ["q"]

BIRTH = 1_700_000_000
NAME = b"0123456789abcdef0123456789abcdef"
BODY = b"Received: (qmail)\nSubject: x\n\nhello\n"


class Node:
    """A home whose qmail-xferd is executed for each connection."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        environ = {"PATH": os.environ["PATH"], "QMAIL_HOME": str(self.home), "TCPREMOTEIP": "192.0.2.9"}
        while True:
            try:
                line = self._listener.accept()[0]
            except OSError:
                return  # shut down
            with line:
                words = [sys.executable, "-ISXutf8", str(BIN / "qmail-xferd")]
                process = subprocess.Popen(words, env=environ, stdin=line, stdout=line, stderr=subprocess.PIPE)
            self.log += process.communicate()[1]

    def close(self) -> None:
        """Serve nobody any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_S)
        self._listener.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("authority"), "authority.test")


def member(home: Path, name: str, authority: Path, port: int) -> TransferPeer:
    """Let ``home`` be the node ``name``; what it knows there.test as."""
    (home / "control/servercert.pem").write_bytes(signed_by(authority, authority.parent, name).read_bytes())
    (home / "control/servercert.pem").chmod(0o400)
    (home / "control/xferca.pem").write_bytes(authority.with_suffix(".crt").read_bytes())
    (home / "control/xferpeers").write_text(f"here.test\nthere.test:127.0.0.1:{port}\n")
    (home / "queue/pyqmail/transfers").mkdir(parents=True, exist_ok=True)
    return parse_peers([f"there.test:127.0.0.1:{port}".encode()])[0]


@pytest.fixture
def serving() -> Iterator[Callable[[Path], Node]]:
    nodes: list[Node] = []

    def serve(home: Path) -> Node:
        nodes.append(Node(home))
        return nodes[-1]

    yield serve
    for node in nodes:
        node.close()


def offer(connection: TransferConnection, facts: Facts, tmp_path: Path, *recipients: bytes) -> list[bytes]:
    path = tmp_path / "message"
    path.write_bytes(BODY)
    fd = os.open(path, os.O_RDONLY)
    try:
        return connection.send(format_facts(facts, b"joe@a"), fd, len(BODY), b"joe@a", recipients)
    finally:
        os.close(fd)


def test_a_message_keeps_its_age_and_its_hold_and_comes_once(
    sending: Sending, q: Asking, authority: Path, serving: Callable[[Path], Node], tmp_path: Path
) -> None:
    node = serving(sending.home)
    here = scenario_home(tmp_path, "here.test", authority, node.port)
    peer = member(sending.home, "there.test", authority, node.port)
    sending.start()
    facts = Facts(envid=b"id", transfer=Transfer(NAME, BIRTH, held=True))
    for _ in range(2):
        connection = TransferConnection(str(here), peer)
        answers = offer(connection, facts, tmp_path, b"ann@far.example", b"v-x@v.example")
        assert [answer[:1] for answer in answers] == [b"K", b"K"]
        connection.close()
        sending.until(lambda: "info msg " in sending.log)
    number = int(sending.log.partition("info msg ")[2].partition(":")[0])
    info = sending.queue / f"info/{number % 3}/{number}"
    sending.until(lambda: not list((sending.queue / "todo").iterdir()))
    (shown,) = q.json("list")
    assert (shown["id"], shown["state"]) == (number, "held")
    assert int(info.stat().st_mtime) == BIRTH
    assert (sending.queue / f"local/{number % 3}/{number}").read_bytes() == b"Talias-v-v-x@v.example\0"
    assert sending.commands == {"local": [], "remote": []}
    q("release", str(number))
    sending.until(lambda: sending.commands["remote"])
    assert sending.log.count("new msg") == 1


def scenario_home(tmp_path: Path, name: str, authority: Path, port: int) -> Path:
    home = tmp_path / name
    home.mkdir()
    scenario.make_home(home, os.getuid())
    member(home, name, authority, port)
    return home


def test_a_queue_that_is_served_moves_and_is_empty(
    sending: Sending, q: Asking, authority: Path, serving: Callable[[Path], Node], tmp_path: Path
) -> None:
    node = serving(tmp_path / "there.test")
    there = scenario_home(tmp_path, "there.test", authority, node.port)
    member(sending.home, "here.test", authority, node.port)
    number = deferred(sending, b"ann@far.example", b"bob@far.example")
    running = sending.put(b"joe@a.example", b"carl@here.example")
    sending.pull()
    sending.until(lambda: sending.commands["local"])
    birth = int((sending.queue / f"info/{number % 3}/{number}").stat().st_mtime)
    words = [sys.executable, "-ISXutf8", str(BIN / "qmail-q"), "xfer"]
    process = subprocess.Popen(words, env=sending.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    sending.until(lambda: f"control: uid {os.getuid()}: moved to there.test msg {number}\n" in sending.log)
    assert process.poll() is None  # what is in flight is waited for
    sending.report("local", sending.commands["local"][-1].slot, b"Z", b"later")
    sending.until(lambda: process.poll() is not None)
    text = process.communicate()[0].decode()
    assert (process.returncode, text) == (0, "xfer: 2 messages moved, 0 left\n")
    sending.until(lambda: f"end msg {number}\n" in sending.log and f"end msg {running}\n" in sending.log)
    sending.until(lambda: not left(sending, number) and not left(sending, running))
    todos = [parse_todo(path.read_bytes()) for path in (there / "queue/todo").iterdir()]
    assert sorted(todo.recipients for todo in todos) == [
        (b"ann@far.example", b"bob@far.example"),
        (b"carl@here.example",),
    ]
    assert any(b" %d " % birth in path.read_bytes() for path in (there / "queue/pyqmail/facts").glob("*/*"))
    wait_for(lambda: node.log.count(b"qmail-xferd: accepted ip=192.0.2.9") == 2, "the log of qmail-xferd")


def test_what_was_taken_is_tried_again_when_the_other_node_is_gone(
    sending: Sending, q: Asking, authority: Path
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        member(sending.home, "here.test", authority, closed.getsockname()[1])
        number = deferred(sending, b"ann@far.example")
        assert "there.test: Connection refused" in q("xfer", "there.test", code=111)
    assert "control/xferpeers has no elsewhere.test" in q("xfer", "elsewhere.test", code=111)
    (sending.home / "control/me").write_text("here.test\n")
    assert "Here.test is this host" in q("xfer", "Here.test", code=111)
    q("retry", str(number))
    sending.until(lambda: len(sending.commands["remote"]) == 2)


def test_who_is_not_listed_or_has_another_authority_is_dropped(
    authority: Path, serving: Callable[[Path], Node], tmp_path: Path
) -> None:
    node = serving(tmp_path / "there.test")
    scenario_home(tmp_path, "there.test", authority, node.port)
    stranger = scenario_home(tmp_path, "stranger.test", authority, node.port)
    forged = scenario_home(tmp_path, "forged", self_signed(tmp_path, "other.test"), node.port)
    (forged / "control/xferca.pem").write_bytes(authority.with_suffix(".crt").read_bytes())
    for home in (stranger, forged):
        (peer,) = (
            one for one in parse_peers((home / "control/xferpeers").read_bytes().split()) if b"there" in one.name
        )
        with pytest.raises((PeerUnreachable, StreamEnded)):
            offer(
                TransferConnection(str(home), peer), Facts(transfer=Transfer(NAME, BIRTH)), tmp_path, b"ann@far.example"
            )
    wait_for(lambda: node.log.count(b"qmail-xferd: dropped ip=192.0.2.9 reason=") == 2, "two lines in the log")
    assert b"reason=its_certificate_is_for_none_of_control/xferpeers" in node.log
    assert not list((tmp_path / "there.test/queue/todo").iterdir())


def test_nobody_is_served_beside_another_qmail_queue(
    authority: Path, serving: Callable[[Path], Node], tmp_path: Path
) -> None:
    there = tmp_path / "there.test"
    node = serving(there)
    here = scenario_home(tmp_path, "here.test", authority, node.port)
    peer = member(scenario_home(tmp_path, there.name, authority, node.port), there.name, authority, node.port)
    program = there / "bin/qmail-queue"
    program.unlink(missing_ok=True)
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\ncat >/dev/null\n")
    program.chmod(0o755)
    with pytest.raises((PeerUnreachable, StreamEnded)):
        offer(TransferConnection(str(here), peer), Facts(transfer=Transfer(NAME, BIRTH)), tmp_path, b"ann@far.example")
    wait_for(lambda: b"dropped ip=192.0.2.9 reason=bin/qmail-queue_is_another_program" in node.log, "the line")


def test_lines_of_xferpeers() -> None:
    lines = (b"A.test", b"b.test:192.0.2.1", b"c.test:[2001:db8::1]:99", b"d.test::77", b"e.test:x:0", b"f test")
    assert parse_peers(lines) == (
        TransferPeer(b"a.test", b"a.test", 2209),
        TransferPeer(b"b.test", b"192.0.2.1", 2209),
        TransferPeer(b"c.test", b"2001:db8::1", 99),
        TransferPeer(b"d.test", b"d.test", 77),
    )
