"""tcpserver as a process: environment, log lines, rules, limit, identity, and the warm qmail-smtpd (contract tcp)."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.formats.cdb import write_cdb
from pyqmail.policy.tcprules import parse_rules

BIN = Path(__file__).parents[2] / "bin"
ENVIRON = {"PATH": "/usr/bin:/bin"}


class Running:
    """A tcpserver on a free port, and what it logs."""

    def __init__(self, *argv: str, host: str = "127.0.0.1", **environ: str) -> None:
        options, program = list(argv[: argv.index("--")]), list(argv[argv.index("--") + 1 :])
        command = [sys.executable, "-ISXutf8", str(BIN / "tcpserver"), "-1v", *options, host, "0", *program]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**ENVIRON, **environ}, pass_fds=()
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self.host = host
        self.port = int(self.process.stdout.readline())

    def line(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline().decode()

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=30)

    def talk(self, data: bytes = b"") -> bytes:
        with self.connect() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(4096), b""))

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


class Servers:
    """Starts servers and ends them."""

    def __init__(self) -> None:
        self.started: list[Running] = []

    def __call__(self, *argv: str, host: str = "127.0.0.1", **environ: str) -> Running:
        self.started.append(Running(*argv, host=host, **environ))
        return self.started[-1]


@pytest.fixture
def servers() -> Iterator[Servers]:
    made = Servers()
    yield made
    for server in made.started:
        if server.process.poll() is None:
            server.end()


def rules(path: Path, text: bytes) -> str:
    write_cdb(str(path), parse_rules(text))
    return str(path)


@pytest.mark.contract("tcp 1.1", "tcp 1.2", "tcp 1.3")
def test_the_program_gets_the_environment_and_the_log_its_lines(servers: Servers) -> None:
    server = servers("-RHlhere", "--", "env", TCPREMOTEINFO="old", TCPREMOTEHOST="old")
    with server.connect() as client:
        port = client.getsockname()[1]
        data = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    environ = dict(line.split("=", 1) for line in data.splitlines())
    assert environ == {
        **ENVIRON,
        "PROTO": "TCP",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": str(server.port),
        "TCPLOCALHOST": "here",
        "TCPREMOTEIP": "127.0.0.1",
        "TCPREMOTEPORT": str(port),
    }
    assert server.line() == "tcpserver: status: 0/40\n"
    assert server.line() == "tcpserver: status: 1/40\n"
    found = re.fullmatch(r"tcpserver: pid (\d+) from 127\.0\.0\.1\n", server.line())
    assert found
    pid = found[1]
    assert server.line() == f"tcpserver: ok {pid} here:127.0.0.1:{server.port} :127.0.0.1::{port}\n"
    assert server.line() == f"tcpserver: end {pid} status 0\n"
    assert server.line() == "tcpserver: status: 0/40\n"
    assert server.end() == 0


def test_ipv6(servers: Servers) -> None:
    server = servers("-RHl0", "--", "sh", "-c", "echo $TCPREMOTEIP $TCPLOCALHOST", host="::1")
    assert server.talk() == b"::1 0\n"


def test_descriptors_are_the_connection_and_no_others_are_open(servers: Servers) -> None:
    server = servers("-RH", "-Bhello ", "--", "sh", "-c", "cat; exec ls /proc/self/fd; ")
    assert server.talk(b"line\n") == b"hello line\n0\n1\n2\n3\n"


def test_rules_deny_and_set_variables_and_are_read_anew(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "r.cdb"
    server = servers("-RHl0", "-x", rules(path, b"127.:deny\n"), "--", "sh", "-c", "echo ${RELAYCLIENT-unset}:$PATH")
    assert server.talk() == b""
    log = [server.line() for _ in range(5)]
    assert any(" deny " in line for line in log) and log[4].endswith(" status 25600\n")
    rules(path, b"127.0.0.1:allow,RELAYCLIENT=//,PATH=/nowhere/\n")
    assert server.talk() == b":nowhere\n"
    path.unlink()
    assert server.talk() == b""
    rest = [server.line() for _ in range(9)]
    expected = "tcpserver: warning: dropping connection, unable to read CDB: file does not exist\n"
    assert expected in rest


def test_with_x_a_missing_database_allows(servers: Servers, tmp_path: Path) -> None:
    assert servers("-RHX", "-x", str(tmp_path / "none"), "--", "echo", "yes").talk() == b"yes\n"


def test_at_the_limit_accept_is_deferred(servers: Servers) -> None:
    server = servers("-RH", "-c1", "--", "cat")
    first, second = server.connect(), server.connect()
    with first, second:
        first.sendall(b"a")
        second.sendall(b"b")
        assert first.recv(1) == b"a"
        second.settimeout(0.3)
        with pytest.raises(TimeoutError):
            second.recv(1)
        first.shutdown(socket.SHUT_WR)
        second.settimeout(30)
        assert second.recv(1) == b"b"


def test_a_program_that_cannot_run(servers: Servers) -> None:
    server = servers("-RHl0", "--", "no-such-program")
    assert server.talk() == b""
    log = [server.line() for _ in range(6)]
    assert log[4] == ("tcpserver: warning: dropping connection, unable to run no-such-program: file does not exist\n")
    assert log[5].endswith(f" status {111 << 8}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_it_becomes_the_given_user_and_group_and_no_other(servers: Servers) -> None:
    server = servers("-RH", "-u", "65533", "-g", "65532", "--", "sh", "-c", "id -u; id -G")
    assert server.talk() == b"65533\n65532\n"


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("127.0.0.1", "0"), 100, b"tcpserver: usage: "),
        (("-Z", "0", "0", "true"), 100, b"tcpserver: illegal option -- Z\n"),
        (("-u", "root", "0", "0", "true"), 100, b"tcpserver: not a number -- u\n"),
        (("0", "no-port", "true"), 111, b"tcpserver: fatal: unable to figure out port number for no-port\n"),
    ],
)
def test_bad_calls(argv: tuple[str, ...], code: int, text: bytes) -> None:
    command = [sys.executable, "-ISXutf8", str(BIN / "tcpserver"), *argv]
    result = subprocess.run(command, capture_output=True, env=ENVIRON, timeout=60, check=False)
    assert result.returncode == code
    assert result.stderr.startswith(text)


def test_a_port_in_use(servers: Servers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-ISXutf8", str(BIN / "tcpserver"), "127.0.0.1", port, "true"]
        result = subprocess.run(command, capture_output=True, env=ENVIRON, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (111, b"tcpserver: fatal: unable to bind: address already used\n")


def test_qmail_smtpd_is_served_by_one_worker_until_its_launcher_is_another(
    servers: Servers, single_user_home: Path
) -> None:
    (single_user_home / "control" / "rcpthosts").write_text("example.test\n")
    path = f"{single_user_home / 'bin'}:{BIN}:/usr/bin:/bin"
    server = servers("-RHl0", "--", "qmail-smtpd", QMAIL_HOME=str(single_user_home), PATH=path)
    pids = []
    server.line()
    for _ in range(2):
        answer = server.talk(b"QUIT\r\n")
        assert answer.startswith(b"220 mx.example.test") and b"\r\n221 " in answer
        log = [server.line() for _ in range(5)]
        assert " ok " in log[2]
        assert re.fullmatch(r"tcpserver: end \d+ status 0\n", log[3])
        pids.append(log[1].split()[2])
        assert log[3].split()[2] == pids[-1]
    assert pids[0] == pids[1]
    folder = single_user_home / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "qmail-smtpd").write_text("#!/bin/sh\necho other\n")
    (folder / "qmail-smtpd").chmod(0o755)
    assert server.talk() == b"other\n"
