"""Our server under daemontools, with the wrappers that service directories use (contract tcp, section 6).

supervise, svc, multilog and the rest are Debian's: what is shown is that ours lives with them.
"""

import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback import everything
from tests.programs.tcp_servers import BIN, DEADLINE_S, theirs
from tests.public_directory import public_directory
from tests.waiting import wait_for

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SERVER = f"{sys.executable} -ISXutf8 {BIN / 'tcpserver'}"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def tool(name: str, *argv: str, data: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [theirs(name), *argv], input=data, capture_output=True, env={"PATH": PATH, **environ}, timeout=60, check=False
    )


class Service:
    """A service directory with our server on a free port and its log."""

    def __init__(self, base: Path, options: str = "") -> None:
        self.directory = base / "smtpd"
        self.log = self.directory / "log" / "main"
        (self.directory / "log").mkdir(parents=True)
        self.port_file = base / "port"
        self.script(f"exec {SERVER} -1vRHl0 {options} 127.0.0.1 0 sh -c 'echo hello' >{self.port_file} 2>&1")
        self._write(self.directory / "log" / "run", "exec multilog t n20 ./main")
        self.processes: list[subprocess.Popen[bytes]] = []

    def script(self, command: str) -> None:
        """Let run execute ``command``; the log goes to log/run, the port to a file."""
        command = command.replace(f">{self.port_file} 2>&1", f"3>&1 >{self.port_file} 2>&3")
        self._write(self.directory / "run", command)

    def _write(self, path: Path, command: str) -> None:
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program of daemontools in a process group of its own."""
        self.processes.append(
            subprocess.Popen(
                [theirs(command[0]), *command[1:]], env={"PATH": PATH}, process_group=0, stderr=subprocess.DEVNULL
            )
        )
        return self.processes[-1]

    def status(self) -> str:
        """What svstat says after the directory's name."""
        return tool("svstat", str(self.directory)).stdout.decode().partition(": ")[2].rstrip("\n")

    def pid(self) -> int:
        """The process of the service."""
        found = re.search(r"pid (\d+)", self.status())
        return int(found[1]) if found else 0

    def talk(self) -> bytes:
        """What a client of the running server gets."""
        wait_for(lambda: self.port_file.exists() and self.port_file.read_text().endswith("\n"), "the port")
        with socket.create_connection(("127.0.0.1", int(self.port_file.read_text())), DEADLINE_S) as client:
            return everything(client)

    def end(self) -> None:
        """End what still runs: svscan first, which would start a supervise again, then the services."""
        for process in self.processes:
            if process.args[0].endswith("svscan"):
                process.terminate()
                process.wait(DEADLINE_S)
        for directory in (self.directory, self.directory / "log"):
            if (directory / "supervise").exists():
                tool("svc", "-dx", str(directory))
        for process in self.processes:
            process.wait(DEADLINE_S)
        for directory in (self.directory, self.directory / "log"):
            wait_for(lambda path=directory: tool("svok", str(path)).returncode != 0, "the end of supervise")


@pytest.fixture
def service() -> Iterator[Service]:
    """A service that is ended with the test."""
    with public_directory() as base:
        made = Service(base)
        yield made
        made.end()


@pytest.mark.contract("tcp 6.1", "tcp 6.4", "tcp 6.5", "tcp 6.8", "tcp 6.9", "tcp 6.10")
def test_our_server_under_supervise(service: Service) -> None:
    directory = str(service.directory)
    assert tool("svok", directory).returncode == 100
    service.start("supervise", directory)
    wait_for(lambda: service.pid(), "it to be up")
    assert tool("svok", directory).returncode == 0
    assert service.talk() == b"hello\n"
    first = service.pid()
    assert os.readlink(f"/proc/{first}/cwd") == directory
    assert re.fullmatch(r"up \(pid \d+\) \d+ seconds", service.status())
    service.port_file.unlink()
    assert tool("svc", "-t", directory).returncode == 0
    wait_for(lambda: service.pid() not in (0, first), "another start")
    assert service.talk() == b"hello\n"
    tool("svc", "-p", directory)
    wait_for(lambda: "paused" in service.status(), "the pause")
    tool("svc", "-d", directory)
    wait_for(lambda: service.status().startswith("down"), "it to be down")
    assert re.fullmatch(r"down \d+ seconds, normally up", service.status())
    lock = service.directory / "supervise"
    assert lock.stat().st_mode & 0o777 == 0o700
    assert len((lock / "status").read_bytes()) == 18 and (lock / "status").read_bytes()[12:16] == bytes(4)


@pytest.mark.contract("tcp 6.2", "tcp 6.10")
def test_a_service_that_is_normally_down(service: Service) -> None:
    (service.directory / "down").touch()
    service.start("supervise", str(service.directory))
    wait_for(lambda: service.status().startswith("down"), "the status")
    assert not service.port_file.exists()
    tool("svc", "-u", str(service.directory))
    assert service.talk() == b"hello\n"
    assert service.status().endswith(", normally down")


@pytest.mark.contract("tcp 6.8", "tcp 7.6")
def test_svc_to_what_does_not_run_is_a_warning(service: Service) -> None:
    done = tool("svc", "-d", str(service.directory))
    assert done.returncode == 0 and b"svc: warning: unable to control" in done.stderr
    assert tool("svc", "-d", "/no-such-directory").returncode == 0
    assert tool("svok", "/no-such-directory").returncode == 111


@pytest.mark.contract("tcp 6.3", "tcp 6.6", "tcp 6.7", "tcp 6.17", "tcp 6.20")
def test_under_svscan_the_log_goes_to_multilog(service: Service) -> None:
    """svscanboot runs svscan under a title; it is not run here: it would take over the services of the machine."""
    assert "svscan" in Path(theirs("svscanboot")).read_text()
    scan = service.start("svscan", str(service.directory.parent))
    assert service.talk() == b"hello\n"
    current = service.log / "current"
    wait_for(lambda: current.exists() and " status: 0/40\n" in last_lines(current), "the log")
    lines = current.read_text().splitlines()
    assert all(re.match(r"@4[0-9a-f]{23} tcpserver: ", line) for line in lines)
    assert sum(" ok " in line for line in lines) == 1
    assert service.log.stat().st_mode & 0o777 == 0o700
    assert current.stat().st_mode & 0o777 == 0o644
    scan.send_signal(signal.SIGTERM)
    scan.wait(DEADLINE_S)
    assert service.talk() == b"hello\n", "supervise lives on without svscan"
    service.end()
    assert current.stat().st_mode & 0o777 == 0o744


def last_lines(path: Path) -> str:
    text = path.read_text()
    return text if text.count(" end ") else ""


@ROOT
@pytest.mark.contract("tcp 6.11", "tcp 6.12", "tcp 2.7")
def test_setuidgid_and_envuidgid_around_our_server() -> None:
    account = pwd.getpwnam("nobody")
    for wrapper, option in (("setuidgid", ""), ("envuidgid", "-U")):
        command = f"exec {wrapper} nobody {SERVER} -1RHl0 {option} 127.0.0.1 0 sh -c 'id -u; id -g; id -G'"
        process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, env={"PATH": PATH})
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
                numbers = [int(line) for line in everything(client).split()]
            assert numbers == [account.pw_uid, account.pw_gid, account.pw_gid]
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
            assert process.stdout is not None
            process.stdout.close()
    assert tool("setuidgid", "no-such-account", "true").returncode == 111


@pytest.mark.contract("tcp 6.13", "tcp 6.14", "tcp 6.15")
def test_softlimit_envdir_and_setlock_around_our_server(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "RELAYCLIENT").write_text("\n")
    (tmp_path / "env" / "GONE").write_text("")
    (tmp_path / "env" / "GIVEN").write_text("value  \nsecond line\n")
    lock = str(tmp_path / "lock")
    script = "echo ${RELAYCLIENT-unset}:${GONE-unset}:$GIVEN:; ulimit -n"
    command = [theirs("setlock"), lock, "envdir", str(tmp_path / "env"), "softlimit", "-o77", *SERVER.split()]
    environ = {"PATH": PATH, "GONE": "here"}
    process = subprocess.Popen(
        [*command, "-1RHl0", "127.0.0.1", "0", "sh", "-c", script], stdout=subprocess.PIPE, env=environ
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
            assert everything(client) == b":unset:value:\n77\n"
        assert tool("setlock", "-n", lock, "true").returncode == 111
        assert tool("setlock", "-nx", lock, "true").returncode == 0
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        process.stdout.close()
    assert tool("setlock", "-n", lock, "true").returncode == 0


@pytest.mark.contract("tcp 6.16")
def test_tai64n_and_back() -> None:
    stamped = tool("tai64n", data=b"tcpserver: status: 0/40\n").stdout
    assert re.fullmatch(rb"@4[0-9a-f]{23} tcpserver: status: 0/40\n", stamped)
    seconds = int(stamped[1:17], 16) - 2**62 - 10
    assert abs(seconds - time.time()) < 60
    assert re.fullmatch(rb"[-0-9]+ [0-9:.]+ tcpserver: status: 0/40\n", tool("tai64nlocal", data=stamped).stdout)


@pytest.mark.contract("tcp 6.18", "tcp 6.19", "tcp 6.21", "tcp 6.22")
def test_multilog_keeps_our_log_lines_whole(tmp_path: Path) -> None:
    lines = [f"tcpserver: end {number} status 0" for number in range(1000)]
    data = "\n".join(lines).encode()
    target = str(tmp_path / "main")
    assert tool("multilog", "-*", "+*: end *", "?unknown", "s4096", "n20", target, data=data).returncode == 0
    files = sorted((tmp_path / "main").glob("@*.s"))
    assert 5 < len(files) < 20
    text = "".join(path.read_text() for path in (*files, tmp_path / "main" / "current"))
    assert text == "\n".join(lines) + "\n", "rotation is at line ends, and the last line gets its LF"
    with subprocess.Popen([theirs("multilog"), target], stdin=subprocess.PIPE) as first:
        opened = Path(f"/proc/{first.pid}/fd")
        wait_for(lambda: any(os.readlink(fd).endswith("/lock") for fd in opened.iterdir()), "the first one's lock")
        wait_for(lambda: tool("multilog", target).returncode == 111, "the second writer to be refused")
        assert b"unable to lock directory" in tool("multilog", target).stderr
        assert first.stdin is not None
        first.stdin.close()
        assert first.wait(DEADLINE_S) == 0
