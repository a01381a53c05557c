"""Remote servers that are slow, endless, rude or gone: bounded memory and time, the right class, and safe text."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.loopback import serving
from tests.mail_sink import Transaction, accept_all, mail_sink
from tests.scripted_peers import _RUN, ACCEPTING, REPO, dns_peer, remote_home, run_program, smtp_peer

MODULE = "pyqmail.programs.qmail_remote"
MESSAGE = b"Subject: x\n\nhello\n"
DEADLINE_S = 60
SAID = b"Remote host said: "
_MEASURED = (
    "import os, sys; end = os._exit\n"
    "os._exit = lambda code: (os.write(2, open('/proc/self/status', 'rb').read()), end(code))\n"
)


def send(directory: Path, port: int, message: bytes = MESSAGE, **controls: str) -> tuple[bytes, int]:
    """The reports of qmail-remote, and the most memory that it had, in KiB."""
    home = remote_home(directory, smtproutes=f":127.0.0.1:{port}", **controls)
    process = subprocess.Popen(
        [sys.executable, "-c", _MEASURED + _RUN, str(REPO), MODULE, "x.test", "s@y.test", "r@x.test"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"QMAIL_HOME": str(home)},
    )
    reports, status = process.communicate(message, DEADLINE_S)
    assert process.returncode == 0
    found = re.search(rb"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found, status
    return reports, int(found[1])


def usual_memory(directory: Path) -> int:
    """What an ordinary delivery takes, in KiB."""
    directory.mkdir()
    with smtp_peer(ACCEPTING) as peer:
        reports, memory = send(directory, peer.port)
    assert reports.startswith(b"r\0K")
    return memory


def endless(data: bytes) -> Callable[[socket.socket], None]:
    def talk(line: socket.socket) -> None:
        while True:
            line.sendall(data)

    return talk


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"220-" + b"x" * 1000 + b"\r\n", id="continuation lines"),
        pytest.param(b"220 " + b"y" * 65536, id="one line"),
        pytest.param(b"\0" * 65536, id="NULs"),
    ],
)
def test_an_endless_reply_ends_in_a_deferral(tmp_path: Path, data: bytes) -> None:
    usual = usual_memory(tmp_path / "usual")
    with serving(endless(data)) as port:
        (tmp_path / "rude").mkdir()
        reports, memory = send(tmp_path / "rude", port)
    assert reports == b"ZConnected to 127.0.0.1 but connection died. (#4.4.2)\n\0"
    assert memory < usual + 4096


@pytest.mark.parametrize(
    ("step", "letter"),
    [(0, b"K"), (3, b"h"), (5, b"D")],
    ids=["greeting", "a recipient refused", "the message refused"],
)
def test_a_reply_of_10_mb_is_a_reply_like_others(tmp_path: Path, step: int, letter: bytes) -> None:
    usual = usual_memory(tmp_path / "usual")
    replies = list(ACCEPTING)
    code = b"220" if step == 0 else b"550"
    replies[step] = (code + b"-" + b"z" * 996 + b"\r\n") * 10_000 + code + b" end\r\n"
    (tmp_path / "rude").mkdir()
    with smtp_peer(replies) as peer:
        reports, memory = send(tmp_path / "rude", peer.port)
    assert letter in [report[:1] for report in reports.split(b"\0")]
    assert all(len(report) < 5100 for report in reports.split(b"\0"))
    assert memory < usual + 4096


def test_a_server_that_drips_is_waited_for(tmp_path: Path) -> None:
    def drip(line: socket.socket) -> None:
        for byte in b"".join(ACCEPTING[:1]):
            line.sendall(bytes((byte,)))
            select.select([line], [], [], 0.3)  # the pace of the peer, well below timeoutremote
        for reply in ACCEPTING[1:5]:
            line.recv(65536)
            line.sendall(reply)
        while not line.recv(65536).endswith(b".\r\n"):
            pass
        line.sendall(ACCEPTING[5])

    with serving(drip) as port:
        assert send(tmp_path, port, timeoutremote="2")[0].startswith(b"r\0K")


@pytest.mark.contract("remote 2.4")
@pytest.mark.parametrize("step", range(5))
def test_silence_after_any_step_ends_at_timeoutremote(tmp_path: Path, step: int) -> None:
    replies = [reply if number < step else b"" for number, reply in enumerate(ACCEPTING)]
    with smtp_peer(replies) as peer:
        start = time.monotonic()
        reports = send(tmp_path, peer.port, timeoutremote="1")[0]
    assert reports.endswith(b"ZConnected to 127.0.0.1 but connection died. (#4.4.2)\n\0")
    assert time.monotonic() - start < 10


@pytest.mark.contract("remote 2.4")
def test_a_timeout_of_0_is_an_instant(tmp_path: Path) -> None:
    with smtp_peer([b""]) as peer:
        assert send(tmp_path, peer.port, timeoutremote="0")[0] == (
            b"ZConnected to 127.0.0.1 but connection died. (#4.4.2)\n\0"
        )


def test_a_server_that_stops_reading_ends_at_timeoutremote(tmp_path: Path) -> None:
    gone = threading.Event()

    def stuck(line: socket.socket) -> None:
        for reply in ACCEPTING[:5]:
            line.sendall(reply)
            if reply is not ACCEPTING[4]:
                line.recv(65536)
        gone.wait(DEADLINE_S)  # nothing more is read until the client has given up

    with serving(stuck) as port:
        reports = send(tmp_path, port, message=b"y\n" * 4_000_000, timeoutremote="1")[0]
        gone.set()
    assert reports == b"r\0ZConnected to 127.0.0.1 but connection died. (#4.4.2)\n\0"


@pytest.mark.contract("remote 5")
def test_nul_8_bit_and_cr_in_replies_are_made_safe(tmp_path: Path) -> None:
    reply = b"550-\0a\xff\r\r\n550 \x1b[2Jb\r\n"
    with smtp_peer([*ACCEPTING[:3], reply]) as peer:
        reports = send(tmp_path, peer.port)[0]
    records = reports.split(b"\0")
    assert records[0] == b"h127.0.0.1 does not like recipient.\n" + SAID + b"550-?a\xff\n550 \x1b[2Jb\n"
    assert len(records) == 3 and records[1] == b"DGiving up on 127.0.0.1.\n"


@pytest.mark.contract("remote 5", "remote 7.6")
@pytest.mark.parametrize("cut", range(0, 120, 11))
def test_a_connection_cut_anywhere_is_a_deferral(tmp_path: Path, cut: int) -> None:
    """The server closes after any number of bytes; the duplicate is named only once the dot has gone."""
    script = b"".join(ACCEPTING)
    dialogue = iter(ACCEPTING)

    def talk(line: socket.socket) -> None:
        left = cut
        for number, reply in enumerate(dialogue):
            if number:
                data = b""
                while not data.endswith(b".\r\n" if number == 5 else b"\n"):
                    data += line.recv(65536)
            line.sendall(reply[:left])
            left -= len(reply)
            if left < 0:
                return

    with serving(talk) as port:
        reports = send(tmp_path, port)[0]
    message = reports.split(b"\0")[-2]
    if cut >= len(script):
        assert message.startswith(b"K")
        return
    assert message.startswith(b"ZConnected to 127.0.0.1 but connection died. ")
    assert (b"Possible duplicate!" in message) == (cut >= len(script) - len(ACCEPTING[5]))


@contextlib.contextmanager
def deaf_port(address: str = "127.0.0.1") -> Iterator[int]:
    """A port whose queue of connections is full, so that one more never comes about."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind((address, 0))
        listener.listen(0)
        for _ in range(4):
            line = stack.enter_context(socket.socket())
            line.setblocking(False)
            line.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.contract("remote 2.3", "remote 3.5", "remote 6.8", "remote 1.11")
def test_a_connection_that_does_not_come_about_ends_at_timeoutconnect_and_is_counted(tmp_path: Path) -> None:
    home = tmp_path
    with deaf_port() as port:
        start = time.monotonic()
        reports = send(home, port, timeoutconnect="1")[0]
        spent = time.monotonic() - start
    assert reports == b"ZSorry, I wasn't able to establish an SMTP connection. (#4.4.1)\n\0"
    assert 1 <= spent < 10
    assert (home / "queue" / "lock" / "tcpto").read_bytes()[:5] == bytes((127, 0, 0, 1, 1))


@pytest.mark.contract("remote 3.5")
def test_the_next_address_is_tried_when_one_times_out_or_refuses(tmp_path: Path) -> None:
    zone = {("relay.test.", "A"): ["127.86.2.1", "127.86.2.2", "127.86.2.3"]}
    with mail_sink(address="127.86.2.3") as sink, dns_peer(zone) as dns, socket.socket() as listener:
        listener.bind(("127.86.2.1", sink.port))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.86.2.1", sink.port))
        controls = {"smtproutes": f":relay.test:{sink.port}", "dnsservers": f"127.0.0.1:{dns.port}"}
        home = remote_home(tmp_path, timeoutconnect="1", **controls)
        status, reports = run_program(MODULE, [b"x.test", b"s@y.test", b"r@x.test"], home, MESSAGE)
        for filler in fillers:
            filler.close()
    assert (status, reports) == (0, b"r\0K127.86.2.3 accepted message.\nRemote host said: 250 ok\n\0")
    table = (home / "queue" / "lock" / "tcpto").read_bytes()
    assert table[:5] == bytes((127, 86, 2, 1, 1)) and table[16:21] == bytes(5)


@pytest.mark.contract("remote 1.14", "remote 2.3", "remote 4.13")
@pytest.mark.parametrize("servers", [1, 3])
def test_a_dead_resolver_costs_at_most_timeoutconnect(tmp_path: Path, servers: int) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(servers)]
        for line in silent:
            line.bind(("127.0.0.1", 0))
        addresses = "\n".join(f"127.0.0.1:{line.getsockname()[1]}" for line in silent)
        home = remote_home(tmp_path, timeoutconnect="2", dnsservers=addresses)
        start = time.monotonic()
        status, reports = run_program(MODULE, [b"x.test", b"s@y.test", b"r@x.test"], home, MESSAGE)
        spent = time.monotonic() - start
    assert (status, reports) == (0, b"ZSorry, I couldn't find any host by that name. (#4.1.2)\n\0")
    assert spent < 2 + 6  # and the time to start a process


@pytest.mark.contract("remote 1.8")
def test_a_closed_report_pipe_and_a_closed_connection_kill_nobody(tmp_path: Path) -> None:
    def closes(line: bytes, transaction: Transaction) -> bytes | None:
        return None if line.startswith(b"DATA") else accept_all(line, transaction)

    with mail_sink(closes) as sink:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{sink.port}")
        reading, writing = os.pipe()
        os.close(reading)
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(REPO), MODULE, "x.test", "s@y.test", "r@x.test"],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            env={"QMAIL_HOME": str(home)},
            preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL) and None,
        )
        os.close(writing)
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.contract("remote 1.12")
def test_an_unreadable_message_is_temporary(tmp_path: Path) -> None:
    with mail_sink() as sink:
        home = remote_home(tmp_path, smtproutes=f":127.0.0.1:{sink.port}")
        unreadable = os.open(tmp_path / "message", os.O_WRONLY | os.O_CREAT)
        done = subprocess.run(
            [sys.executable, "-c", _RUN, str(REPO), MODULE, "x.test", "s@y.test", "r@x.test"],
            stdin=unreadable,
            stdout=subprocess.PIPE,
            env={"QMAIL_HOME": str(home)},
            timeout=DEADLINE_S,
            check=True,
        )
        os.close(unreadable)
        assert done.stdout == b"r\0ZUnable to read message. (#4.3.0)\n\0"
        assert sink.taken == []
