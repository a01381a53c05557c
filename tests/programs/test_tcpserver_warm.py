"""tcpserver serving our own programs from memory: workers, chains, changes, crashes, limits and restarts."""

import base64
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyqmail.formats.cdb import write_cdb
from pyqmail.launch import launcher_text
from pyqmail.tcp.tcprules import parse_rules
from tests.certificates import client_context, self_signed
from tests.loopback import everything
from tests.programs.sending import make_queue
from tests.programs.tcp_servers import BIN, DEADLINE_S, ENVIRON, OURS, Running, Servers, gone, theirs
from tests.public_directory import public_directory
from tests.waiting import wait_for

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SMTPD = str(BIN / "qmail-smtpd")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that every user may look at."""
    with public_directory() as base:
        (base / "control").mkdir()
        (base / "control" / "me").write_text("mx.test\n")
        (base / "control" / "rcpthosts").write_text("here.test\n")
        yield base


def rules(home: Path, text: str) -> str:
    write_cdb(str(home / "r.tmp"), parse_rules(text.encode()))
    (home / "r.tmp").rename(home / "r.cdb")
    return str(home / "r.cdb")


def session(server: Running, *commands: bytes) -> bytes:
    """The replies to the greeting and to ``commands``, one after another."""
    with server.connect() as client:
        replies = client.recv(4096)
        for command in commands:
            client.sendall(command + b"\r\n")
            replies += client.recv(4096)
        return replies


def workers_end(server: Running) -> None:
    wait_for(lambda: not server.children(), "the workers' end")


def test_one_worker_serves_one_connection_after_another(servers: Servers, home: Path) -> None:
    server = servers("-vRHl0", "--", SMTPD, QMAIL_HOME=str(home))
    assert server.line() == "tcpserver: status: 0/40"
    pids = set()
    for _ in range(5):
        assert session(server, b"QUIT") == b"220 mx.test ESMTP\r\n221 mx.test\r\n"
        assert server.line() == "tcpserver: status: 1/40"
        pid = server.line().split()[2]
        assert re.fullmatch(rf"tcpserver: ok {pid} 0:127\.0\.0\.1:{server.port} :127\.0\.0\.1::\d+", server.line())
        assert server.line() == f"tcpserver: end {pid} status 0"
        assert server.line() == "tcpserver: status: 0/40"
        pids.add(int(pid))
    assert len(pids) < 5 and pids <= set(server.children())
    assert Path(f"/proc/{pids.pop()}/cmdline").read_bytes().rstrip(b"\0") == b"qmail-smtpd"


@pytest.mark.parametrize(("option", "calls"), [("-RHl0", 0), ("-vRHl0", 6)])
def test_a_connection_costs_the_server_nothing(servers: Servers, home: Path, option: str, calls: int) -> None:
    """Its own process makes no system call for a connection that an idle worker takes, and with -v few, to log it."""
    trace = home / "trace"
    server = servers(option, "--", SMTPD, command=("strace", "-o", str(trace), *OURS), QMAIL_HOME=str(home))
    counts = []
    for _ in range(4):
        wait_for(lambda: idle(trace), "it to rest")
        counts.append(-len(trace.read_text().splitlines()))
        for _ in range(20):
            session(server, b"QUIT")
            if option == "-vRHl0":
                server.line_with(" end ")
        wait_for(lambda: idle(trace), "it to rest")
        counts[-1] += len(trace.read_text().splitlines())
    # On a busy machine no worker may be back in time, and the server looks up; handing over would take ten calls.
    assert min(counts) <= 20 * (calls + 2), counts
    assert server.end() == 0


def idle(trace: Path) -> bool:
    """Whether the traced process waits, and has done so before: it is registered last in the listener's queue."""
    lines = trace.read_text().splitlines()
    return "EPOLLEXCLUSIVE" in "".join(lines) and lines[-1].startswith("epoll_wait(") and ") =" not in lines[-1]


@ROOT
def test_what_a_worker_has_and_who_it_is(servers: Servers, home: Path) -> None:
    foreign = ("sh", "-c", 'exec 9</etc/passwd; exec "$0" "$@"', *OURS)
    server = servers("-RHl0", "-u", "65533", "-g", "65532", "--", SMTPD, command=foreign, QMAIL_HOME=str(home))
    assert "/etc/passwd" in os.readlink(f"/proc/{server.pid}/fd/9")
    session(server, b"QUIT")
    worker = server.children()[0]
    status = Path(f"/proc/{worker}/status").read_text()
    assert "Uid:\t65533\t65533\t65533\t65533\n" in status
    assert "Gid:\t65532\t65532\t65532\t65532\n" in status
    assert re.search(r"^Groups:\t65532 ?$", status, re.MULTILINE)
    assert Path(f"/proc/{worker}/fd").stat().st_uid == 0, "it can be traced by others of its user"
    wait_for(lambda: not Path(f"/proc/{worker}/fd/0").is_symlink(), "it to rest")  # its place is free for the next
    assert os.readlink(f"/proc/{worker}/fd/1") == "/dev/null"
    names = {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{worker}/fd").iterdir()}
    kinds = sorted(re.sub(r":.*", "", name) for fd, name in names.items() if fd > 2)
    # the listener, the way to the server, /dev/null for later, what it waits with
    assert kinds == sorted(["socket", "socket", "/dev/null", "anon_inode"])


def test_descriptors_of_a_session(servers: Servers, home: Path) -> None:
    program = home / "queue-program"
    program.write_text("#!/bin/sh\nls -l /proc/self/fd >&2\nexit 0\n")
    program.chmod(0o755)
    server = servers("-RHl0", "--", SMTPD, QMAIL_HOME=str(home), QMAILQUEUE=str(program))
    replies = session(server, b"MAIL FROM:<a@b>", b"RCPT TO:<c@here.test>", b"DATA", b"\r\n.", b"QUIT")
    assert b"\r\n250 ok " in replies
    fds = [server.line().split(" -> ")[0].split()[-1] for _ in range(6)][1:]
    assert fds == ["0", "1", "2", "3", "6"] or fds[:4] == ["0", "1", "2", "3"]


def test_controls_and_rules_count_from_the_next_connection(servers: Servers, home: Path) -> None:
    path = rules(home, ":allow\n")
    server = servers("-RHl0", "-x", path, "--", SMTPD, QMAIL_HOME=str(home))
    refused = session(server, b"MAIL FROM:<a@b>", b"RCPT TO:<c@d.test>")
    assert b"\r\n553 " in refused
    rules(home, '127.:allow,RELAYCLIENT="",DATABYTES="77777"\n')
    (home / "control" / "smtpgreeting").write_text("hello.test\n")
    replies = session(server, b"EHLO me", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d.test>")
    assert replies.startswith(b"220 hello.test ESMTP") and b"SIZE 77777\r\n" in replies
    assert replies.endswith(b"\r\n250 ok\r\n")
    rules(home, ":allow\n")
    assert b"\r\n553 " in session(server, b"MAIL FROM:<a@b>", b"RCPT TO:<c@d.test>"), "the variable has stayed"
    rules(home, ":deny\n")
    assert server.talk() == b""
    os.unlink(path)
    assert server.talk() == b""
    assert server.line_with("warning").endswith(f"unable to read {path}: file does not exist")
    assert len(server.children()) < 5


def test_a_directory_of_certificates_counts_from_the_next_connection(servers: Servers, home: Path) -> None:
    pems = {name: self_signed(home, name) for name in ("mx.test", "other.test")}

    def put(folder: str, name: str) -> None:
        path = home / "control" / folder / "servercert.pem"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pems[name].read_bytes())
        path.chmod(0o400)

    put("", "mx.test")
    server = servers("-RHl0", "-c1", "--", SMTPD, QMAIL_HOME=str(home))

    def secured(name: str) -> bytes:
        """What is said at the end by a server that is ``name``."""
        with server.connect() as client:
            client.recv(4096)
            client.sendall(b"STARTTLS\r\n")
            client.recv(4096)
            with client_context(pems[name]).wrap_socket(client, server_hostname=name) as tls:
                tls.sendall(b"QUIT\r\n")
                return tls.recv(4096) + tls.recv(4096)

    assert secured("mx.test") == b"221 mx.test\r\n"
    with pytest.raises(ssl.SSLCertVerificationError):
        secured("other.test")
    (home / "control/servercerts").mkdir()
    put("servercerts/other.test", "other.test")
    assert secured("other.test") == secured("mx.test") == b"221 mx.test\r\n"
    shutil.rmtree(home / "control/servercerts")
    with pytest.raises(ssl.SSLCertVerificationError):
        secured("other.test")
    assert secured("mx.test") == b"221 mx.test\r\n"


def test_the_rules_file_may_be_named_from_the_servers_directory(servers: Servers, home: Path) -> None:
    rules(home, '127.:allow,RELAYCLIENT=""\n')
    here = os.getcwd()
    os.chdir(home)
    try:
        server = servers("-RHl0", "-x", "r.cdb", "--", SMTPD, QMAIL_HOME=str(home))
    finally:
        os.chdir(here)
    for _ in range(3):
        assert b"\r\n250 ok\r\n" in session(server, b"MAIL FROM:<a@b>", b"RCPT TO:<c@d.test>")


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("rcptcheck", "./checker"),
        ("recipients", "here.test|./checker"),
        ("smtpplugins", "[rcpt]\nchecker"),
        ("RCPTCHECK", "./checker"),
    ],
)
def test_a_checker_is_run_in_the_home_and_the_worker_stays_where_it_was(
    servers: Servers, home: Path, where: str, text: str
) -> None:
    (home / "checker").write_text("#!/bin/sh\npwd -P >>seen\necho E550 no\nexit 100\n")
    (home / "checker").chmod(0o755)
    if where.islower():
        (home / "control" / where).write_text(text + "\n")
    server = servers("-RHl0", "--", SMTPD, QMAIL_HOME=str(home), **({where: text} if where.isupper() else {}))
    for _ in range(2):
        assert b"\r\n550 " in session(server, b"MAIL FROM:<a@b>", b"RCPT TO:<c@here.test>")
    assert (home / "seen").read_text() == f"{home.resolve()}\n" * 2
    assert os.readlink(f"/proc/{server.children()[0]}/cwd") == os.getcwd()


def test_an_executed_program_has_its_client_without_our_limits(servers: Servers, home: Path) -> None:
    (home / "bin").mkdir()
    server = servers("-vRHl0", "--", "qmail-smtpd", QMAIL_HOME=str(home), PATH=f"{home / 'bin'}:{BIN}:/usr/bin:/bin")
    session(server, b"QUIT")
    (home / "bin" / "qmail-smtpd").write_text(
        f"#!{sys.executable}\nimport socket\n"
        "for fd in (0, 1):\n"
        "    sock = socket.socket(fileno=fd)\n"
        "    print([sock.getsockopt(1, option, 16) for option in (20, 21)] == [bytes(16)] * 2, flush=True)\n"
    )
    (home / "bin" / "qmail-smtpd").chmod(0o755)
    for _ in range(3):  # the first by a worker, which has found out
        assert server.talk(b"") == b"True\nTrue\n"


@pytest.mark.parametrize("before", ["1\n", None], ids=["as it was at the start", "changed since"])
def test_a_silent_client_has_the_time_that_the_control_file_says(
    servers: Servers, home: Path, before: str | None
) -> None:
    path = home / "control" / "timeoutsmtpd"
    if before is not None:
        path.write_text(before)
    server = servers("-RHl0", "--", SMTPD, QMAIL_HOME=str(home))
    session(server, b"QUIT")
    path.write_text("1\n")
    for _ in range(2):
        with server.connect() as client:
            assert everything(client) == b"220 mx.test ESMTP\r\n451 timeout (#4.4.2)\r\n"


def test_a_changed_launcher_is_executed_and_open_sessions_go_on(servers: Servers, home: Path) -> None:
    (home / "bin").mkdir()
    path = f"{home / 'bin'}:{BIN}:/usr/bin:/bin"
    server = servers("-vRHl0", "-c5", "--", "qmail-smtpd", QMAIL_HOME=str(home), PATH=path)
    with server.connect() as client:
        assert client.recv(99).startswith(b"220 mx.test")
        (home / "bin" / "qmail-smtpd").write_text("#!/bin/sh\necho other $#; read line; exit 7\n")
        (home / "bin" / "qmail-smtpd").chmod(0o755)
        for _ in range(3):
            assert server.talk(b"\n") == b"other 0\n"
            assert server.line_with(" end ").endswith(" status 1792")
        assert sum("has changed" in line for line in server.lines) == 1
        client.sendall(b"QUIT\r\n")
        assert everything(client) == b"221 mx.test\r\n"
    assert server.line_with(" end ").endswith(" status 0")
    assert server.line() == "tcpserver: status: 0/5"
    assert [line for line in server.lines if "status: " in line and int(line.split()[-1].split("/")[0]) > 2] == []
    workers_end(server)


@pytest.mark.contract("tcp 2")
def test_a_wrapper_in_the_chain_is_executed(servers: Servers, home: Path) -> None:
    server = servers("-vRHl0", "--", "sh", "-c", f"echo before; exec {SMTPD}", QMAIL_HOME=str(home))
    assert server.talk(b"QUIT\r\n").startswith(b"before\n220 mx.test")
    workers_end(server)


@pytest.mark.contract("tcp 5.1", "tcp 5.2")
def test_a_chain_of_ours_runs_in_one_worker(servers: Servers, home: Path) -> None:
    path = rules(home, ":allow\n")
    program = ("-x", path, "--", str(BIN / "rblsmtpd"), "-t", "20", "rblsmtpd", "-b", "qmail-smtpd")
    server = servers("-vRHl0", *program, QMAIL_HOME=str(home), PATH=f"{BIN}:/usr/bin:/bin")
    assert session(server, b"QUIT").startswith(b"220 mx.test")
    rules(home, ":allow,RBLSMTPD=/-go away/\n")
    blocked = session(server, b"MAIL FROM:<>", b"RCPT TO:<a@b>", b"QUIT")
    assert blocked == b"220 rblsmtpd.local\r\n250 rblsmtpd.local\r\n553 go away\r\n221 rblsmtpd.local\r\n"
    said = re.fullmatch(r"rblsmtpd: 127\.0\.0\.1 pid (\d+): 553 go away", server.line_with("rblsmtpd: "))
    assert said
    worker = int(said[1])
    rules(home, ":allow,RBLSMTPD=//\n")
    assert session(server, b"QUIT").startswith(b"220 mx.test")
    assert worker in server.children() and len(server.children()) < 4


def test_a_chain_whose_path_a_rule_changes_is_executed(servers: Servers, home: Path) -> None:
    (home / "other").mkdir()
    (home / "other" / "qmail-smtpd").write_text("#!/bin/sh\necho other\n")
    (home / "other" / "qmail-smtpd").chmod(0o755)
    path = rules(home, f"127.0.0.1:allow,PATH=,{home}/other:/usr/bin:/bin,\n")
    program = ("-x", path, "--", str(BIN / "rblsmtpd"), "qmail-smtpd")
    server = servers("-RHl0", *program, QMAIL_HOME=str(home), PATH=f"{BIN}:/usr/bin:/bin")
    assert server.talk() == b"other\n"


@pytest.mark.contract("tcp 2", "tcp 5")
def test_our_programs_under_the_server_of_ucspi_tcp_and_theirs_under_ours(servers: Servers, home: Path) -> None:
    """Executed, each chain behaves as it does in a worker."""
    transcripts = set()
    for server_command, screen in (
        (OURS, str(BIN / "rblsmtpd")),
        (OURS, theirs("rblsmtpd")),
        ((theirs("tcpserver"),), str(BIN / "rblsmtpd")),
        ((theirs("tcpserver"),), theirs("rblsmtpd")),
    ):
        path = rules(home, '127.:allow,RELAYCLIENT=""\n')
        program = ("-x", path, "--", screen, SMTPD)
        server = servers("-RHl0", *program, command=server_command, QMAIL_HOME=str(home))
        spoken = session(server, b"EHLO me", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d.test>", b"BAD", b"QUIT")
        rules(home, ":allow,RBLSMTPD=/no/\n")
        transcripts.add((spoken, session(server, b"RCPT TO:<a@b>", b"QUIT")))
    assert len(transcripts) == 1
    assert transcripts.pop()[1] == b"220 rblsmtpd.local\r\n451 no\r\n221 rblsmtpd.local\r\n"


def test_qmtpd_and_qmqpd_are_served_from_memory_too(servers: Servers, home: Path) -> None:
    for name, data, answer in (("qmail-qmtpd", b"1:x,", b""), ("qmail-qmqpd", b"", b"")):
        launcher = home / name
        module = "pyqmail.programs." + name.replace("-", "_")
        launcher.write_text(launcher_text(module, 111, "/usr/bin/python3", str(BIN.parent)))
        launcher.chmod(0o755)
        server = servers("-vRHl0", "--", str(launcher), QMAIL_HOME=str(home))
        assert server.talk(data) == answer
        pid = int(server.line_with(" end ").split()[2])
        assert pid in server.children(), "it was executed"


def test_ipv6_sessions_are_served_by_workers(servers: Servers, home: Path) -> None:
    path = rules(home, '[::1]:allow,RELAYCLIENT=""\n:deny\n')
    server = servers("-vRHl0", "-x", path, "--", SMTPD, host="::1", QMAIL_HOME=str(home))
    for _ in range(3):
        assert b"\r\n250 ok\r\n" in session(server, b"MAIL FROM:<a@b>", b"RCPT TO:<c@d.test>")
        assert re.search(rf" 0:::1:{server.port} :::1::\d+$", server.line_with(" ok "))


def test_a_mistake_in_the_chain_is_reported_by_the_program_itself(servers: Servers, home: Path) -> None:
    server = servers("-RHl0", "--", str(BIN / "rblsmtpd"), "-Z", SMTPD, QMAIL_HOME=str(home))
    assert server.talk() == b""
    assert server.line() == "rblsmtpd: illegal option -- Z"


@pytest.mark.contract("tcp 2")
def test_popup_gets_a_process_of_its_own_each_time(servers: Servers, home: Path) -> None:
    popup = home / "qmail-popup"
    popup.write_text(launcher_text("pyqmail.programs.qmail_popup", 1, "/usr/bin/python3", str(BIN.parent)))
    popup.chmod(0o755)
    server = servers("-vRHl0", "--", str(popup), "mx.test", "true", "true", QMAIL_HOME=str(home))
    pids = []
    for _ in range(3):
        assert server.talk(b"QUIT\r\n").startswith(b"+OK")
        assert server.line_with("status: 1/40")
        pids.append(server.line().split()[2])
        assert server.line().startswith(f"tcpserver: ok {pids[-1]} ")
        assert server.line() == f"tcpserver: end {pids[-1]} status 256"
    assert len(set(pids)) == 3
    workers_end(server)


@pytest.mark.parametrize("options", ["-RHl0", "-vRHl0"])
def test_a_crash_costs_one_connection(servers: Servers, home: Path, options: str) -> None:
    server = servers(options, "--", SMTPD, QMAIL_HOME=str(home))
    for _ in range(3):
        with server.connect() as other, server.connect() as client:
            assert other.recv(99).startswith(b"220 ") and client.recv(99).startswith(b"220 ")
            victim = holder(server, client)
            os.kill(victim, signal.SIGKILL)
            assert everything(client) == b""
            other.sendall(b"QUIT\r\n")
            assert everything(other) == b"221 mx.test\r\n"
        if options == "-vRHl0":
            server.line_with(f"tcpserver: end {victim} status 9")
    assert session(server, b"QUIT").startswith(b"220 mx.test")


def holder(server: Running, client: socket.socket) -> int:
    """The worker at the other end of ``client``."""
    port = f":{client.getsockname()[1]:04X} "
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    (inode,) = [row[9] for row in rows if row[2].endswith(port.strip()) and row[1].endswith(f":{server.port:04X}")]
    for child in server.children():
        try:
            if os.readlink(f"/proc/{child}/fd/0") == f"socket:[{inode}]":
                return child
        except OSError:
            continue  # it has just ended
    raise AssertionError("nobody serves this connection")


def test_at_the_limit_connections_wait_for_a_worker(servers: Servers, home: Path) -> None:
    server = servers("-vRHl0", "-c3", "--", SMTPD, QMAIL_HOME=str(home))
    with ExitStack() as stack:
        first = [stack.enter_context(server.connect()) for _ in range(3)]
        for client in first:
            assert client.recv(99).startswith(b"220 ")
        later = [stack.enter_context(server.connect()) for _ in range(3)]
        later[0].settimeout(0.2)
        with pytest.raises(TimeoutError):
            later[0].recv(99)
        assert len(server.children()) == 3
        for gone, waiting in zip(first, later, strict=True):
            gone.close()
            waiting.settimeout(DEADLINE_S)
            assert waiting.recv(99).startswith(b"220 ")
    counts = []
    while counts[-3:] != ["2/3", "1/3", "0/3"]:
        counts.append(server.line_with("status: ").split()[-1])
    assert set(counts) == {"0/3", "1/3", "2/3", "3/3"}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_port_is_free_at_once_though_sessions_go_on(servers: Servers, home: Path, signum: int) -> None:
    server = servers("-RHl0", "--", SMTPD, QMAIL_HOME=str(home))
    with server.connect() as client:
        assert client.recv(99).startswith(b"220 ")
        worker = holder(server, client)
        session(server, b"QUIT")
        others = [child for child in server.children() if child != worker]
        server.process.send_signal(signum)
        assert server.ended() == (0 if signum == signal.SIGTERM else -9)
        if signum == signal.SIGKILL:
            wait_for(lambda: not listening(server.port), "the port to be free")
        command = [*OURS, "-RHl0", "127.0.0.1", str(server.port), "echo", "next"]
        successor = subprocess.Popen(command, env=ENVIRON, stderr=subprocess.PIPE)
        try:
            wait_for(lambda: successor.poll() is not None or listening(server.port), "a successor")
            assert successor.poll() is None, successor.stderr and successor.stderr.read()
            assert server.talk() == b"next\n"
            client.sendall(b"QUIT\r\n")
            assert everything(client) == b"221 mx.test\r\n"
        finally:
            successor.terminate()
            successor.wait(DEADLINE_S)
            assert successor.stderr is not None
            successor.stderr.close()
        for pid in (worker, *others):
            wait_for(lambda pid=pid: gone(pid), "the worker's end")


def listening(port: int) -> bool:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def test_nothing_is_imported_after_the_fork(servers: Servers, home: Path) -> None:
    uid, gid = os.geteuid() or 65534, os.getegid() or 65534
    make_queue(home, 23)
    (home / "control" / "conf-users").write_text(f"{uid}\n" * 8)
    (home / "control" / "conf-groups").write_text(f"{gid}\n" * 2)
    pem = self_signed(home)
    (home / "control/servercert.pem").write_bytes(pem.read_bytes())
    (home / "control/servercert.pem").chmod(0o400)
    for path in [home, *home.rglob("*")]:
        os.chown(path, uid, gid)
    trace = home / "trace"
    command = ("strace", "-f", "-e", "trace=openat,accept4", "-o", str(trace), *OURS)
    program = ("--", str(BIN / "rblsmtpd"), SMTPD)
    words = ("-l0", f"-u{uid}", f"-g{gid}", "-t1", *program)
    server = servers(*words, command=command, QMAIL_HOME=str(home), SMTPAUTH="+cram", FORCETLS="0")
    replies = session(server, b"EHLO x", b"MAIL FROM:<a@b>", b"RCPT TO:<c@here.test>", b"DATA", b"a: b\r\n\r\nc\r\n.")
    assert replies.split(b"\r\n")[-2].startswith(b"250 ok "), replies
    assert b"\r\n502 " in session(server, b"BAD", b"VRFY x", b"QUIT")
    plain = base64.b64encode(b"\0ann\0secret")
    assert b"\r\n454 " in session(server, b"AUTH PLAIN " + plain, b"QUIT")  # there is no qmail-authd
    assert b"\r\n501 " in session(server, b"AUTH CRAM-MD5", b"*", b"QUIT")
    with server.connect() as client:
        assert client.recv(4096).startswith(b"220 ")
        client.sendall(b"STARTTLS\r\n")
        assert client.recv(4096).startswith(b"220 ")
        with client_context(pem).wrap_socket(client, server_hostname="mx.test") as tls:
            tls.sendall(b"QUIT\r\n")
            assert tls.recv(4096).startswith(b"221 ")
    server.end()
    lines = trace.read_text().splitlines()
    worker = next(line for line in lines if "accept4" in line).split()[0]
    late = [line for line in lines if line.startswith(worker) and re.search(r"\.py|\.so|/dist-packages", line)]
    assert late == []


@ROOT
@pytest.mark.contract("tcp 2.2")
def test_many_idle_sessions_share_their_memory_and_others_are_served(servers: Servers, home: Path) -> None:
    server = servers("-RHl0", "-c200", "-b128", "--", SMTPD, QMAIL_HOME=str(home))
    with ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(60)]
        for client in idle:
            assert client.recv(99).startswith(b"220 ")
            client.sendall(b"MAIL FROM:<a@b>\r\nRCP")
        assert session(server, b"QUIT").startswith(b"220 mx.test")
        pids = [server.process.pid, *server.children()]
        sizes = [re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M) for pid in pids]
        total_kb = sum(int(size[1]) for size in sizes if size)
        assert total_kb / len(idle) < 3400


@pytest.mark.parametrize("options", ["-vRHl0", "-vRHDl0"])
def test_clients_that_reset_at_once_harm_nobody(servers: Servers, home: Path, options: str) -> None:
    server = servers(options, "-Bbanner\r\n", "--", SMTPD, QMAIL_HOME=str(home))
    for _ in range(50):
        client = server.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    with server.connect() as client:
        client.sendall(b"QUIT\r\n")
        assert everything(client) == b"banner\r\n220 mx.test ESMTP\r\n221 mx.test\r\n"
        port = client.getsockname()[1]
    pid = server.line_with(f"::{port}").split()[2]
    assert server.line_with(f"end {pid} ").endswith(" status 0")
    while not server.lines[-1].endswith("status: 0/40"):
        server.line()
    assert not any("Traceback" in line or "Errno" in line for line in server.lines)


def test_descriptors_for_many_workers_are_the_servers_own_business(servers: Servers, home: Path) -> None:
    few = ("sh", "-c", 'ulimit -Sn 30; exec "$0" "$@"', *OURS)
    server = servers("-RHl0", "-c60", "-b60", "--", SMTPD, command=few, QMAIL_HOME=str(home))
    with ExitStack() as stack:
        for _ in range(50):
            assert stack.enter_context(server.connect()).recv(99).startswith(b"220 ")
        limits = Path(f"/proc/{server.children()[0]}/limits").read_text()
        assert re.search(r"^Max open files +30 ", limits, re.MULTILINE)


@ROOT
def test_a_full_house_of_dripping_senders_harms_nobody_else() -> None:
    """The soak command, with few connections; as many as let what all share count for little."""
    soak = BIN.parent / "tests" / "soak" / "tcpserver"
    done = subprocess.run([sys.executable, soak, "60"], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(b"\nok ") == 5


LIFE = """
import os, signal, socket, sys
sys.path[:0] = [{package!r}, {package!r} + "/.deps"]
from pyqmail.stream.standard import Standard
from pyqmail.system.loop import Loop
from pyqmail.tcp.children import dead_children
from pyqmail.tcp.workers import Events, Task, Workers
loop, listener = Loop(), socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)

def serve(connection, peer, voice):
    data = os.read(0, 100)
    if data == b"bug":
        raise ValueError("a bug")
    os.write(Standard.writer, b"%d" % os.getpid())
    os.umask(0)
    os.chdir("/")
    return 0

def say(*what):
    pass

task = Task(serve, "test", logs=False, served_max=3, idle_s=0.2)
workers = Workers(loop, listener, task, Events(say, say, say, say, say), limit=4)
loop.add_signal(signal.SIGCHLD, lambda: [workers.reap(*dead) for dead in dead_children()])
print(listener.getsockname()[1], flush=True)
workers.start()
loop.run()
"""


@pytest.fixture
def pool() -> Iterator[tuple[int, int]]:
    """The port and the process of a small pool of its own."""
    script = LIFE.format(package=str(BIN.parent))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    yield int(process.stdout.readline()), process.pid
    process.terminate()
    process.wait(DEADLINE_S)
    process.stdout.close()


def ask(port: int, data: bytes = b"x") -> bytes:
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
        client.sendall(data)
        return everything(client)


def test_a_worker_retires_after_its_share_and_another_takes_over(pool: tuple[int, int]) -> None:
    connections = Counter(ask(pool[0]) for _ in range(13))  # more than the four workers may take
    assert max(connections.values()) == 3 and len(connections) >= 5


def test_workers_that_are_too_many_retire_and_one_stays(pool: tuple[int, int]) -> None:
    port, pid = pool
    children = Path(f"/proc/{pid}/task/{pid}/children")
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S)) for _ in range(4)]
        wait_for(lambda: len(children.read_text().split()) == 4, "four workers")
        for client in clients:
            client.sendall(b"x")
            everything(client)
    wait_for(lambda: len(children.read_text().split()) == 1, "the end of the idle workers")
    answered = ask(port)  # while a process ends, /proc may leave out others too
    wait_for(lambda: children.read_text().split() == [answered.decode()], "that the one that stays has answered")


def test_a_bug_ends_its_worker_and_its_connection_only(pool: tuple[int, int]) -> None:
    for _ in range(6):
        assert ask(pool[0], b"bug") == b""
        assert ask(pool[0]).isdigit()
