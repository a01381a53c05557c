"""qmail-qmqpc: in place of qmail-queue, against scripted servers in a network of its own."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.envelope import format_envelope
from pyqmail.programs import qmail_qmqpc
from pyqmail.protocol.netstring_reader import Kind
from pyqmail.protocol.qmqp import QmqpReader
from pyqmail.protocol.qmqp_client import EnvelopeBroken, first_letter, frame, parse_envelope, parse_ipv4

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30
ENVELOPE = b"Fa@b\0Tc@d\0Te@f\0\0"


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pyqmail-qmqpc-") as base:
        (Path(base) / "control").mkdir()
        yield Path(base)


def run(
    home: Path, message: bytes = b"Subject: x\n", envelope: bytes = ENVELOPE, *, program: list[str] | None = None
) -> int:
    """The exit code of qmail-qmqpc with ``message`` on 0 and ``envelope`` on 1."""
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        for file, data in ((first, message), (second, envelope)):
            file.write(data)
            file.seek(0)
        words = program or [str(ROOT / "bin" / "qmail-qmqpc")]
        return subprocess.run(words, stdin=first, stdout=second, env={"QMAIL_HOME": str(home)}, timeout=60).returncode


def servers(home: Path, text: str) -> None:
    """Write control/qmqpservers."""
    (home / "control" / "qmqpservers").write_text(text)


@pytest.mark.contract("smtpd 8.1")
def test_no_home_is_61(home: Path) -> None:
    assert run(home / "missing") == 61


@pytest.mark.contract("smtpd 8.2", "smtpd 8.9")
@pytest.mark.parametrize("text", [None, "", "# 127.0.0.1\n", "relay.example.test\nlocalhost\n1.2.3\n"])
def test_no_usable_server_is_55(home: Path, text: str | None) -> None:
    if text is not None:
        servers(home, text)
    assert run(home) == 55


@pytest.mark.contract("smtpd 8.2")
@pytest.mark.parametrize("name", ["qmqpservers", "me"])
def test_an_unreadable_control_file_is_55(home: Path, name: str) -> None:
    servers(home, "127.0.0.1\n")
    (home / "control" / name).unlink(missing_ok=True)
    (home / "control" / name).symlink_to(name)
    assert run(home) == 55


@pytest.mark.contract("smtpd 8.3")
@pytest.mark.parametrize(
    "envelope", [b"", b"F", b"Fa", b"Ta\0\0", b"\0", b"Fa\0", b"Fa\0Tb\0", b"Fa\0Xb\0\0", b"Fa\0Tb\0T", b"a\0\0"]
)
def test_a_broken_envelope_is_91(home: Path, envelope: bytes) -> None:
    servers(home, "127.0.0.1\n")
    assert run(home, envelope=envelope) == 91


@pytest.mark.contract("smtpd 8.4")
def test_a_read_error_is_54(home: Path) -> None:
    servers(home, "127.0.0.1\n")
    words = ["sh", "-c", f"exec {ROOT}/bin/qmail-qmqpc 0>/dev/null"]  # open, but not for reading
    assert run(home, program=words) == 54


@pytest.mark.contract("smtpd 8.4")
def test_no_memory_is_51(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> bytes:
        raise MemoryError

    servers(home, "127.0.0.1\n")
    monkeypatch.setattr(qmail_qmqpc, "slurp", full)
    before = os.getcwd()
    assert qmail_qmqpc.main([b"qmail-qmqpc"], {b"QMAIL_HOME": os.fsencode(home)}) == 51
    os.chdir(before)


class Relay:
    """A server on port 628 of a network that only this test has."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.heard = b""

    def run(self, home: Path, script: Callable[[socket.socket], None] | None, address: str = "127.0.0.1") -> int:
        """qmail-qmqpc's exit code while ``script`` serves one connection; None: nobody listens."""
        words = ["ip", "netns", "exec", self.name, str(ROOT / "bin" / "qmail-qmqpc")]
        with self.serving(script, address):
            return run(home, program=words)

    @contextmanager
    def serving(self, script: Callable[[socket.socket], None] | None, address: str = "127.0.0.1") -> Iterator[None]:
        """A server for one connection, whose end is waited for."""
        if script is None:
            yield
            return
        thread = threading.Thread(target=self._serve, args=(self._listen(address), script))
        thread.start()
        try:
            yield
        finally:
            thread.join(DEADLINE_S)

    def _listen(self, address: str) -> socket.socket:
        """A socket made inside the other network."""
        ours, theirs = socket.socketpair()
        program = (
            "import socket, sys\n"
            "line = socket.socket(fileno=0)\n"
            "kind = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
            "door = socket.create_server((sys.argv[1], 628), family=kind)\n"
            "socket.send_fds(line, [b'x'], [door.fileno()])\n"
        )
        with theirs:
            words = ["ip", "netns", "exec", self.name, "/usr/bin/python3", "-c", program, address]
            subprocess.run(words, stdin=theirs, check=True)
        with ours:
            (fd,) = socket.recv_fds(ours, 1, 1)[1]
        door = socket.socket(fileno=fd)
        door.settimeout(DEADLINE_S)
        return door

    def _serve(self, listener: socket.socket, script: Callable[[socket.socket], None]) -> None:
        with listener:
            line = listener.accept()[0]
        with line:
            line.settimeout(DEADLINE_S)
            reader = QmqpReader()
            while not reader.ended and reader.fault is None:
                data = line.recv(65536)
                assert data
                self.heard += data
                reader.feed(data)
            script(line)


@pytest.fixture(scope="module")
def relay_network() -> Iterator[str]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip: a network of its own")
    name = f"pyqmail-qmqp-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.contract("smtpd 8.8")
@pytest.mark.parametrize(
    ("answers", "code"),
    [
        pytest.param([b"9:Kok 1 qp,"], 0, id="K"),
        pytest.param([b"4:Zno,"], 71, id="Z"),
        pytest.param([b"4:Dno,"], 31, id="D"),
        pytest.param([b"any thing ", b"12:", b"K"], 0, id="in pieces, and no netstring at all"),
    ],
)
def test_the_first_letter_decides(home: Path, relay_network: str, answers: list[bytes], code: int) -> None:
    servers(home, "127.0.0.1\n")
    relay = Relay(relay_network)
    assert relay.run(home, lambda line: [line.sendall(answer) for answer in answers] and None) == code
    assert relay.heard == b"43:11:Subject: x\n,3:a@b,3:c@d,3:e@f,,".replace(b"43:", b"33:")


@pytest.mark.contract("smtpd 8.7")
def test_a_server_that_says_nothing_is_74_and_no_other_is_tried(home: Path, relay_network: str) -> None:
    servers(home, "127.0.0.1\n127.0.0.2\n")
    assert Relay(relay_network).run(home, lambda line: line.sendall(b"nothing")) == 74


@pytest.mark.contract("smtpd 8.5", "smtpd 8.6")
def test_the_next_server_is_tried_when_one_cannot_be_reached(home: Path, relay_network: str) -> None:
    servers(home, "no.such.name\n127.0.0.2\n127.0.0.3 and junk\n")
    assert Relay(relay_network).run(home, lambda line: line.sendall(b"K"), "127.0.0.3") == 0


@pytest.mark.contract("smtpd 8.6", "smtpd 8.9")
def test_nobody_listening_is_73(home: Path, relay_network: str) -> None:
    servers(home, "127.0.0.2\n127.0.0.3\nlast\n")
    assert Relay(relay_network).run(home, None) == 73


@pytest.mark.parametrize("how", ["in the place of bin/qmail-queue", "by QMAILQUEUE"])
def test_a_host_without_a_queue_sends_by_its_sendmail(relay_network: str, how: str) -> None:
    with tempfile.TemporaryDirectory(prefix="pyqmail-mini-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        subprocess.run(
            [ROOT / "bin" / "qmail-setup"],
            env={**os.environ, "QMAIL_HOME": folder},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (home / "control" / "me").write_text("mini.test\n")
        servers(home, "127.0.0.1\n")
        environ = {"PATH": os.environ["PATH"]}
        if how == "by QMAILQUEUE":
            environ["QMAILQUEUE"] = f"{home}/bin/qmail-qmqpc"
        else:
            (home / "bin" / "qmail-queue").unlink()
            (home / "bin" / "qmail-queue").symlink_to("qmail-qmqpc")
        relay = Relay(relay_network)
        with relay.serving(lambda line: line.sendall(b"K")):
            words = ["ip", "netns", "exec", relay_network, home / "bin" / "sendmail", "-f", "a@mini.test", "c@d.test"]
            subprocess.run(words, input=b"Subject: x\n\nbody\n", env=environ, check=True, timeout=60)
    assert b"\nSubject: x\n" in relay.heard and relay.heard.endswith(b"\n\nbody\n,11:a@mini.test,8:c@d.test,,")


def test_an_ipv6_server(home: Path, relay_network: str) -> None:
    servers(home, "::1\n")
    assert Relay(relay_network).run(home, lambda line: line.sendall(b"K"), "::1") == 0


@pytest.mark.contract("smtpd 8.6", "smtpd 8.7")
def test_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is not made is 72; one that then says nothing is 74."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        monkeypatch.setattr(qmail_qmqpc, "PORT", silent.getsockname()[1])
        monkeypatch.setattr(qmail_qmqpc, "WAIT_S", 0.2)
        monkeypatch.setattr(qmail_qmqpc, "CONNECT_S", 0.2)
        assert qmail_qmqpc.deliver(socket.AF_INET, "127.0.0.1", (b"x",)) == (74, True)
        waiting = []
        for _ in range(8):  # until nobody more fits before the door
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(silent.getsockname())
        assert qmail_qmqpc.deliver(socket.AF_INET, "127.0.0.1", (b"x",)) == (72, False)
        for each in waiting:
            each.close()


def test_the_limits_are_the_originals() -> None:
    assert (qmail_qmqpc.CONNECT_S, qmail_qmqpc.WAIT_S, qmail_qmqpc.PORT) == (10, 60, 628)


@pytest.mark.contract("smtpd 8.5")
@pytest.mark.parametrize(
    ("line", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"192.0.2.1:26", "192.0.2.1"),
        (b"192.0.2.1 relay", "192.0.2.1"),
        (b"192.0.2", None),
        (b"192.0.2.", None),
        (b" 192.0.2.1", None),
        (b"a.b.c.d", None),
        (b"", None),
    ],
)
def test_addresses(line: bytes, address: str | None) -> None:
    assert parse_ipv4(line) == address


@given(st.binary(max_size=30), st.lists(st.binary(max_size=30)))
def test_an_envelope_survives(sender: bytes, recipients: list[bytes]) -> None:
    sender = sender.replace(b"\0", b"")
    recipients = [each.replace(b"\0", b"") for each in recipients]
    assert parse_envelope(format_envelope(sender, recipients)) == (sender, recipients)


@given(st.binary(max_size=30))
def test_any_bytes_are_an_envelope_or_a_fault(data: bytes) -> None:
    try:
        sender, recipients = parse_envelope(data)
    except EnvelopeBroken:
        return
    assert data.startswith(format_envelope(sender, recipients))


@given(st.binary(max_size=50), st.binary(max_size=20), st.lists(st.binary(max_size=20)))
def test_a_server_reads_what_is_framed(message: bytes, sender: bytes, recipients: list[bytes]) -> None:
    before, after = frame(len(message), sender, recipients)
    reader = QmqpReader()
    events = reader.feed(before + message + after)
    assert reader.ended and reader.fault is None
    assert b"".join(data or b"" for kind, data in events if kind is Kind.TEXT) == message
    shown = [data for kind, data in events if kind in (Kind.SENDER, Kind.RECIPIENT)]
    assert shown == [sender, *recipients]


def test_first_letter() -> None:
    assert [first_letter(text) for text in (b"", b"12:ok", b"9:xZD")] == [b"", b"", b"Z"]
