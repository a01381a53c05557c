"""recordio, fixcrio and tcp-env, and ours with the small clients of Debian's ucspi-tcp (contract tcp, section 4)."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyqmail.programs.fixcrio import Fixer
from pyqmail.programs.recordio import record
from tests.loopback import everything
from tests.nameserver import ident, nameserver, own_network
from tests.programs.tcp_servers import BIN, ENVIRON, Servers, theirs

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
WHOSE = pytest.mark.parametrize("whose", ["ours", "debian"])
NETWORK = own_network()


def tool(name: str, whose: str = "ours") -> list[str]:
    return [theirs(name)] if whose == "debian" else [sys.executable, "-ISXutf8", str(BIN / name)]


def through(command: list[str], *pieces: bytes, program: tuple[str, ...] = ("cat",)) -> tuple[bytes, list[str], int]:
    """What comes back, the log and the exit code of a tool around ``cat``; each piece waits for the one before it."""
    ours, network = socket.socketpair()
    with ours:
        ours.settimeout(30)
        process = subprocess.Popen([*command, *program], stdin=network, stdout=network, stderr=subprocess.PIPE)
        network.close()
        back = b""
        for piece in pieces:
            ours.sendall(piece)
            got = b""
            while len(got) < len(piece):
                got += ours.recv(65536)
            back += got
        ours.shutdown(socket.SHUT_WR)
        back += everything(ours)
        assert process.stderr is not None
        log = process.stderr.read().decode("latin-1")
        process.stderr.close()
        return back, log.split("\n")[:-1], process.wait(30)


@WHOSE
@pytest.mark.contract("tcp 4.3")
def test_recordio_shows_both_directions(whose: str) -> None:
    pieces = [b"ab", b"c\nd\n", b"\r\n", b"y" * 256 + b"\n" + b"z" * 257 + b"\n", b"end"]
    back, log, code = through(tool("recordio", whose), *pieces)
    assert (back, code) == (b"".join(pieces), 0)
    pids = {line.split()[0] for line in log}
    assert len(pids) == 1
    expected = ["ab+", "c ", "d ", "\r ", "y" * 256 + "+", " ", "z" * 255 + "+", "zz ", "end+", "[EOF]"]
    for direction in "<>":
        lines = [line.partition(f" {direction} ")[2] for line in log if f" {direction} " in line[:12]]
        if direction == "<":
            assert lines == expected
        else:  # cat may join pieces on their way back
            assert "".join(lines).replace("+", "") == "".join(expected).replace("+", "")


@WHOSE
@pytest.mark.contract("tcp 4.3", "tcp 4.4")
@pytest.mark.parametrize("name", ["recordio", "fixcrio"])
def test_the_program_keeps_the_process_and_its_end_ends_the_connection(name: str, whose: str) -> None:
    ours, network = socket.socketpair()
    with ours:
        command = [*tool(name, whose), "sh", "-c", "echo $$; exit 7"]
        process = subprocess.Popen(command, stdin=network, stdout=network, stderr=subprocess.PIPE)
        network.close()
        ours.settimeout(30)
        assert int(everything(ours)) == process.pid
        log = process.communicate(timeout=30)[1]
        assert process.returncode == 7
        expected = f"{process.pid} > {process.pid} \n{process.pid} > [EOF]\n".encode()
        assert log == (expected if name == "recordio" else b"")


@WHOSE
@pytest.mark.contract("tcp 4.4")
def test_fixcrio_adds_what_is_missing(whose: str) -> None:
    command = [*tool("fixcrio", whose), "sh", "-c", "od -An -c | tr -d '\\n'; printf 'x\\ny'"]
    done = subprocess.run(command, input=b"a\nb\r\nc\r\r\n\npartial", capture_output=True, timeout=60, check=False)
    to_program, _, rest = done.stdout.rpartition(b"x\r\n")
    assert to_program.split() == rb"a \r \n b \r \n c \r \r \n \r \n p a r t i a l".split()
    assert (rest, done.returncode) == (b"y", 0)


@given(st.lists(st.binary(max_size=8) | st.sampled_from([b"\r", b"\n", b"\r\n"])))
@pytest.mark.contract("tcp 4.4")
def test_fixcrio_does_not_mind_where_pieces_break(pieces: list[bytes]) -> None:
    fixer, whole = Fixer(), b"".join(pieces)
    fixed = b"".join(fixer(piece) for piece in pieces if piece)
    assert fixed == re.sub(rb"(?<!\r)\n", b"\r\n", whole)


@given(st.binary(min_size=1, max_size=1000).filter(lambda data: b"+" not in data and b" " not in data))
def test_recordio_loses_nothing(data: bytes) -> None:
    pieces = record(b"1 < ", data).split(b"1 < ")[1:]
    assert all(piece.endswith((b" \n", b"+\n")) for piece in pieces)
    assert b"".join(piece[:-2] + (b"\n" if piece.endswith(b" \n") else b"") for piece in pieces) == data


@WHOSE
@pytest.mark.contract("tcp 4.3", "tcp 4.4")
@pytest.mark.parametrize("name", ["recordio", "fixcrio"])
def test_bad_calls(name: str, whose: str) -> None:
    none = subprocess.run(tool(name, whose), capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert (none.returncode, none.stderr) == (100, f"{name}: usage: {name} program [ arg ... ]\n".encode())
    missing = subprocess.run(
        [*tool(name, whose), "no-such-program"], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    assert missing.returncode == 111
    assert f"{name}: fatal: unable to run no-such-program: file does not exist\n".encode() in missing.stderr


@WHOSE
@pytest.mark.contract("tcp 4.3", "tcp 4.4")
def test_a_large_flow_in_both_directions_does_not_stall(whose: str) -> None:
    data = os.urandom(300_000).replace(b"\n", b"")
    command = [*tool("fixcrio", whose), *tool("recordio", whose), "sh", "-c", "head -c 300000 /dev/zero; cat"]
    ours, network = socket.socketpair()
    with ours:
        process = subprocess.Popen(command, stdin=network, stdout=network, stderr=subprocess.DEVNULL)
        network.close()
        sender = threading.Thread(target=lambda: (ours.sendall(data), ours.shutdown(socket.SHUT_WR)))
        sender.start()
        back = everything(ours)
        sender.join(30)
        assert process.wait(30) == 0
    assert back == bytes(300_000) + data


# --- tcp-env


def tcp_env(*argv: str, line: socket.socket | int, **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-ISXutf8", str(BIN / "tcp-env"), *argv]
    env = {**ENVIRON, **environ}
    return subprocess.run(command, stdin=line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, check=False)


def accepted(source: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection from ``source``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), source_address=(source, 0))
        return client, listener.accept()[0]


@pytest.mark.contract("tcp 4.7")
def test_under_tcpserver_tcp_env_runs_the_program_and_looks_at_nothing() -> None:
    done = tcp_env("-R", "-t5", "env", line=subprocess.DEVNULL, PROTO="TCP", TCPREMOTEIP="odd")
    assert done.returncode == 0 and b"TCPREMOTEIP=odd\n" in done.stdout and b"TCPLOCALIP" not in done.stdout


@ROOT
@pytest.mark.contract("tcp 1.1", "tcp 1.2", "tcp 1.3", "tcp 1.4", "tcp 1.5", "tcp 4", "tcp 4.7")
def test_tcp_env_tells_what_is_known_of_the_connection() -> None:
    reverse = ".".join(NETWORK.split(".")[:0:-1])
    zones = {"127.in-addr.arpa": [f"2.{reverse} PTR Far.Example.", "1.0.0 PTR near.example."]}
    client, line = accepted(f"{NETWORK}.2")
    old = {"TCPREMOTEHOST": "old", "TCPLOCALHOST": "old", "TCPREMOTEINFO": "old", "KEPT": "it"}
    with client, line, ident(f"{NETWORK}.2", b"1,2:USERID:UNIX: m e\r\n"):
        with nameserver(f"{NETWORK}.55", zones) as address:
            done = tcp_env("env", line=line, DNSCACHEIP=address, **old)
            other = tcp_env("-R", "env", line=line, DNSCACHEIP=address, **old)
        soft = tcp_env("env", line=line, DNSCACHEIP=address, **old)
    told = dict(row.split("=", 1) for row in done.stdout.decode().splitlines())
    assert told == {
        **ENVIRON,
        "DNSCACHEIP": address,
        "KEPT": "it",
        "PROTO": "TCP",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": str(line_port(told)),
        "TCPLOCALHOST": "near.example",
        "TCPREMOTEIP": f"{NETWORK}.2",
        "TCPREMOTEPORT": told["TCPREMOTEPORT"],
        "TCPREMOTEHOST": "far.example",
        "TCPREMOTEINFO": "me",
    }
    assert b"TCPREMOTEINFO" not in other.stdout and b"TCPREMOTEHOST=far.example\n" in other.stdout
    assert b"TCPREMOTEHOST=softdnserror\n" in soft.stdout and b"TCPLOCALHOST=softdnserror\n" in soft.stdout


def line_port(told: dict[str, str]) -> int:
    """The port that the variables name."""
    return int(told["TCPLOCALPORT"])


@ROOT
@pytest.mark.contract("tcp 4.7")
def test_tcp_env_clears_names_that_do_not_exist() -> None:
    client, line = accepted(f"{NETWORK}.2")
    with client, line, nameserver(f"{NETWORK}.55", {"127.in-addr.arpa": []}) as address:
        done = tcp_env("-R", "env", line=line, DNSCACHEIP=address, TCPREMOTEHOST="old", TCPREMOTEINFO="old")
    assert done.returncode == 0
    assert b"HOST=" not in done.stdout and b"INFO=" not in done.stdout


@pytest.mark.contract("tcp 4.7")
@pytest.mark.parametrize("argv", [(), ("-Z", "true"), ("-t",), ("true",), ("no-such-program",)])
def test_every_failure_of_tcp_env_is_a_silent_111(argv: tuple[str, ...]) -> None:
    done = tcp_env(*argv, line=subprocess.DEVNULL, **({"PROTO": "TCP"} if argv == ("no-such-program",) else {}))
    assert (done.returncode, done.stdout, done.stderr) == (111, b"", b"")


def test_tcp_env_refuses_a_socket_of_another_kind() -> None:
    ours, other = socket.socketpair()
    with ours, other:
        assert tcp_env("true", line=other).returncode == 111


# --- ours with the clients of ucspi-tcp


@pytest.mark.contract("tcp 4.1", "tcp 4.2")
def test_tcpclient_and_argv0_with_our_server(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "me").write_text("mx.test\n")
    program = (theirs("argv0"), str(BIN / "qmail-smtpd"), "another-name")
    server = servers("-RHl0", "--", *program, QMAIL_HOME=str(tmp_path))
    script = "read line <&6; echo $line $PROTO $TCPREMOTEPORT; echo QUIT >&7; cat <&6"
    command = [theirs("tcpclient"), "-RHl0", "127.0.0.1", str(server.port), "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.stdout == f"220 mx.test ESMTP\r TCP {server.port}\n221 mx.test\r\n".encode()


@pytest.mark.contract("tcp 4.6")
def test_tcpcat_and_mconnect_with_our_server(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "me").write_text("mx.test\n")
    server = servers("-RHl0", "--", "echo", "hello")
    command = [theirs("tcpcat"), "127.0.0.1", str(server.port)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).stdout == b"hello\n"
    smtp = servers("-RHl0", "--", str(BIN / "qmail-smtpd"), QMAIL_HOME=str(tmp_path))
    done = subprocess.run(
        [theirs("mconnect"), "127.0.0.1", str(smtp.port)], input=b"NOOP\nQUIT\n", capture_output=True, timeout=60
    )
    assert done.stdout.replace(b"\r", b"") == b"220 mx.test ESMTP\n250 ok\n221 mx.test\n"


@pytest.mark.contract("tcp 4.5")
def test_addcr_and_delcr_beside_fixcrio() -> None:
    """addcr adds a CR to every line, one that has it included; fixcrio does not, so delcr undoes either."""
    text = b"a\r\nb\nc"
    added = subprocess.run([theirs("addcr")], input=text, capture_output=True, check=True).stdout
    assert added == b"a\r\r\nb\r\nc"
    fixed = Fixer()(text)
    assert fixed == b"a\r\nb\r\nc"
    assert subprocess.run([theirs("delcr")], input=fixed, capture_output=True, check=True).stdout == b"a\nb\nc"
