"""tcpserver as a process: options, environment, log lines, rules (contract tcp, sections 1 to 3).

What ucspi-tcp does too is shown of Debian's tcpserver as well, so that the tests are of the contract and not of us.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pyqmail.formats.cdb import write_cdb
from pyqmail.tcp.tcprules import parse_rules
from tests.loopback import everything
from tests.nameserver import ident, nameserver, own_network
from tests.programs.tcp_servers import ENVIRON, OURS, Servers, theirs
from tests.waiting import wait_for

DEBIAN = ("debian",)
BOTH = pytest.mark.parametrize("command", [OURS, DEBIAN], ids=["ours", "debian"])
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NETWORK = own_network()


@pytest.fixture(autouse=True)
def debian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's program is found when a test needs it."""
    start = Servers.__call__

    def called(self: Servers, *argv: str, command: tuple[str, ...] = OURS, **more: str) -> object:
        return start(self, *argv, command=(theirs("tcpserver"),) if command == DEBIAN else command, **more)

    monkeypatch.setattr(Servers, "__call__", called)


def rules(path: Path, text: bytes) -> str:
    temporary = path.with_suffix(".new")
    write_cdb(str(temporary), parse_rules(text))
    temporary.rename(path)
    return str(path)


def bad_call(*argv: str, command: tuple[str, ...] = OURS, **environ: str) -> tuple[int, str]:
    command = (theirs("tcpserver"),) if command == DEBIAN else command
    done = subprocess.run([*command, *argv], capture_output=True, env={**ENVIRON, **environ}, timeout=60, check=False)
    return done.returncode, done.stderr.decode()


@BOTH
@pytest.mark.contract("tcp 1.1", "tcp 1.2", "tcp 1.3", "tcp 1.4", "tcp 1.5", "tcp 2", "tcp 2.1", "tcp 2.14", "tcp 7.9")
def test_the_program_gets_the_environment_and_the_log_its_lines(servers: Servers, command: tuple[str, ...]) -> None:
    server = servers("-vRHlhere", "--", "env", command=command, TCPREMOTEINFO="old", TCPREMOTEHOST="old", KEPT="it")
    with server.connect() as client:
        port = client.getsockname()[1]
        data = everything(client).decode()
    environ = dict(line.split("=", 1) for line in data.splitlines())
    assert environ == {
        **ENVIRON,
        "KEPT": "it",
        "PROTO": "TCP",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": str(server.port),
        "TCPLOCALHOST": "here",
        "TCPREMOTEIP": "127.0.0.1",
        "TCPREMOTEPORT": str(port),
    }
    assert server.line() == "tcpserver: status: 0/40"
    assert server.line() == "tcpserver: status: 1/40"
    found = re.fullmatch(r"tcpserver: pid (\d+) from 127\.0\.0\.1", server.line())
    assert found
    pid = found[1]
    assert server.line() == f"tcpserver: ok {pid} here:127.0.0.1:{server.port} :127.0.0.1::{port}"
    assert server.line() == f"tcpserver: end {pid} status 0"
    assert server.line() == "tcpserver: status: 0/40"
    assert server.end() == 0


@BOTH
@pytest.mark.contract("tcp 2")
@pytest.mark.parametrize(
    ("name", "shown"), [("a:b%c d\xe9~!", "a?b?c?d??~!"), ("x" * 99, "x" * 99), ("y" * 100, "y" * 100 + "...")]
)
def test_odd_bytes_in_a_name_are_not_logged(servers: Servers, command: tuple[str, ...], name: str, shown: str) -> None:
    server = servers("-vRHl", name, "--", "true", command=command)
    server.talk()
    assert f" {shown}:127.0.0.1:" in server.line_with(" ok ")


@BOTH
@pytest.mark.contract("tcp 2")
def test_the_end_line_has_the_raw_wait_status(servers: Servers, command: tuple[str, ...]) -> None:
    server = servers("-vRHl0", "--", "sh", "-c", "exit 3", command=command)
    server.talk()
    assert server.line_with(" end ").endswith(" status 768")
    server = servers("-vRHl0", "--", "sh", "-c", "kill -9 $$", command=command)
    server.talk()
    assert server.line_with(" end ").endswith(" status 9")


@BOTH
@pytest.mark.contract("tcp 2.1")
def test_without_v_only_trouble_is_logged_and_with_q_nothing(servers: Servers, command: tuple[str, ...]) -> None:
    for option, logged in (("-RHl0", ["unable to run no-such-program"]), ("-qRHl0", []), ("-vQRHl0", ["unable to"])):
        server = servers(option, "--", "no-such-program", command=command)
        assert server.talk() == b""
        log = server.process.stderr
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)
        assert log is not None
        lines = log.read().decode().splitlines()
        assert len(lines) == len(logged) and all(part in line for part, line in zip(logged, lines, strict=True))


@BOTH
@pytest.mark.contract("tcp 2.2")
def test_at_the_limit_accept_is_deferred(servers: Servers, command: tuple[str, ...]) -> None:
    server = servers("-vRHl0", "-c1", "--", "cat", command=command)
    with server.connect() as first, server.connect() as second:
        first.sendall(b"a")
        second.sendall(b"b")
        assert first.recv(1) == b"a"
        second.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.recv(1)
        first.shutdown(socket.SHUT_WR)
        second.settimeout(30)
        assert second.recv(1) == b"b"
    for expected in ("0/1", "1/1", "0/1", "1/1", "0/1"):
        assert server.line_with("status: ") == f"tcpserver: status: {expected}"


@BOTH
@pytest.mark.contract("tcp 2.3", "tcp 3", "tcp 7.3", "tcp 7.4", "tcp 7.5", "tcp 7.7")
def test_rules_deny_and_set_variables_and_are_read_anew(
    servers: Servers, command: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "r.cdb"
    text = 'echo "${RELAYCLIENT-unset}:$TCPREMOTEHOST:$TCPREMOTEINFO:$PATH"'
    program = ("/bin/sh", "-c", text)
    server = servers("-vRHl0", "-x", rules(path, b"127.:deny\n"), "--", *program, command=command)
    assert server.talk() == b""
    deny = server.line_with(" deny ")
    assert server.line() == f"tcpserver: end {deny.split()[2]} status 25600"
    rules(path, b'127.0.0.1:allow,RELAYCLIENT="",PATH=x/nowherex,TCPREMOTEHOST=/told/,TCPREMOTEINFO=/by/\n127.:deny\n')
    assert server.talk() == b":told:by:/nowhere\n"
    assert re.search(r" :127\.0\.0\.1::\d+$", server.line_with(" ok ")), "the line shows what was looked up"
    path.unlink()
    assert server.talk() == b""
    expected = f"tcpserver: warning: dropping connection, unable to read {path}: file does not exist"
    assert server.line_with("warning") == expected
    assert server.line_with(" end ").endswith(f" status {111 << 8}")
    rules(path, b"1:deny\n")
    assert server.talk().startswith(b"unset:"), "no rule means allow"


@BOTH
@pytest.mark.contract("tcp 2")
def test_the_program_is_found_by_the_servers_path_and_not_by_the_rules(
    servers: Servers, command: tuple[str, ...], tmp_path: Path
) -> None:
    path = rules(tmp_path / "r.cdb", b":allow,PATH=x/nowherex\n")
    server = servers("-RHl0", "-x", path, "--", "sh", "-c", "echo $PATH", command=command)
    assert server.talk() == b"/nowhere\n"


@BOTH
@pytest.mark.contract("tcp 2.4")
def test_with_x_a_missing_database_allows(servers: Servers, command: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "r.cdb"
    server = servers("-RHXl0", "-x", str(path), "--", "echo", "yes", command=command)
    assert server.talk() == b"yes\n"
    rules(path, b":deny\n")
    assert server.talk() == b""


@BOTH
def test_a_damaged_database_drops_the_connection(servers: Servers, command: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "r.cdb"
    path.write_bytes(b"\1" * 3000)
    server = servers("-vRHXl0", "-x", str(path), "--", "echo", "yes", command=command)
    assert server.talk() == b""
    assert server.line_with("warning").endswith(f"dropping connection, unable to read {path}: protocol error")


@BOTH
@pytest.mark.contract("tcp 2.5", "tcp 7.4")
def test_the_banner_goes_out_even_to_those_who_are_denied(
    servers: Servers, command: tuple[str, ...], tmp_path: Path
) -> None:
    path = rules(tmp_path / "r.cdb", b":deny\n")
    server = servers("-RHl0", "-Bhello\r\n", "-x", path, "--", "echo", "yes", command=command)
    assert server.talk() == b"hello\r\n"


@ROOT
@BOTH
@pytest.mark.contract("tcp 2.6", "tcp 2.7")
@pytest.mark.parametrize("options", [("-u65533", "-g", "65532"), ("-U",)], ids=["numbers", "environment"])
def test_it_becomes_the_given_user_and_group_and_no_other(
    servers: Servers, command: tuple[str, ...], options: tuple[str, ...]
) -> None:
    server = servers("-RHl0", *options, "--", "sh", "-c", "id -u; id -G", command=command, UID="65533", GID="65532")
    assert server.talk() == b"65533\n65532\n"
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    assert "Uid:\t65533\t65533\t65533\t65533\n" in status and "Gid:\t65532\t65532\t65532\t65532\n" in status
    assert re.search(r"^Groups:\t65532 ?$", status, re.MULTILINE)


def test_a_user_that_is_no_number_is_refused_rather_than_taken_for_root() -> None:
    assert bad_call("-u", "root", "0", "0", "true")[0] == 100
    assert bad_call("-U", "0", "0", "true", UID="qmaild")[0] == 100


@BOTH
@pytest.mark.contract("tcp 2.8")
def test_with_1_the_port_is_printed(servers: Servers, command: tuple[str, ...]) -> None:
    server = servers("-RHl0", "--", "echo", command=command)
    assert 0 < server.port < 65536 and server.talk() == b"\n"


@BOTH
@pytest.mark.contract("tcp 2.9")
@pytest.mark.parametrize(("option", "backlog"), [((), 20), (("-b", "7"), 7)])
def test_the_backlog(servers: Servers, command: tuple[str, ...], option: tuple[str, ...], backlog: int) -> None:
    server = servers("-RHl0", *option, "--", "echo", command=command)
    listening = subprocess.run(["ss", "-Hltn", f"sport = :{server.port}"], capture_output=True, check=True).stdout
    assert int(listening.split()[2]) == backlog


SOCKET_OPTIONS = """
import socket
line = socket.socket(fileno=0)
print(line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0, flush=True)
"""


@BOTH
@pytest.mark.contract("tcp 2.11")
@pytest.mark.parametrize(("option", "no_delay"), [("-d", b"False\n"), ("-D", b"True\n"), ("-R", b"False\n")])
def test_nagle(servers: Servers, command: tuple[str, ...], option: str, no_delay: bytes) -> None:
    server = servers("-RHl0", option, "--", sys.executable, "-c", SOCKET_OPTIONS, command=command)
    assert server.talk() == no_delay


@ROOT
@pytest.mark.contract("tcp 2.10")
@pytest.mark.parametrize(("option", "cleared"), [("-O", True), ("-o", False), ("-R", True)])
def test_ip_options_are_killed_unless_kept(option: str, cleared: bool) -> None:
    """Seen by what is asked of the kernel: a client may not send the options that matter."""
    with tempfile.TemporaryDirectory() as base:
        trace = f"{base}/trace"
        command = ("strace", "-f", "-e", "trace=setsockopt", "-o", trace, *OURS)
        made = Servers()
        server = made("-RHl0", option, "--", "echo", command=command)
        assert server.talk() == b"\n"
        server.end()
        assert ('SOL_IP, IP_OPTIONS, "", 0) = 0' in Path(trace).read_text()) is cleared


@ROOT
@BOTH
@pytest.mark.contract("tcp 1.4", "tcp 2", "tcp 2.12", "tcp 2.13", "tcp 2.14")
def test_names_come_from_dns(servers: Servers, command: tuple[str, ...]) -> None:
    zones = {
        "127.in-addr.arpa": [
            f"{host}.{reversed_network()} PTR {name}"
            for host, name in ((2, "True.Example."), (3, "liar.example."), (4, r"odd\:\%\032\233.example."))
        ]
        + ["1.0.0 PTR LocalHost.example."],
        "example": [f"true A {NETWORK}.9", f"true A {NETWORK}.2", f"liar A {NETWORK}.7"],
    }
    program = ("--", "sh", "-c", r'printf "%s %s\n" "${TCPREMOTEHOST-none}" "${TCPLOCALHOST-none}"')
    with nameserver(f"{NETWORK}.53", zones) as address:
        server = servers("-vR", *program, command=command, DNSCACHEIP=address)
        assert server.talk(source=f"{NETWORK}.2") == b"true.example localhost.example\n"
        assert re.search(r" localhost\.example:127\.0\.0\.1:\d+ true\.example:", server.line_with(" ok "))
        assert server.talk(source=f"{NETWORK}.3") == b"liar.example localhost.example\n"
        server.line_with(" ok ")
        assert server.talk(source=f"{NETWORK}.4") == b"odd\\072\\045\\040\\351.example localhost.example\n"
        assert r" odd\072\045\040\351.example:" in server.line_with(" ok ")
        assert server.talk(source=f"{NETWORK}.5") == b"none localhost.example\n"
        paranoid = servers("-pRl0", *program, command=command, DNSCACHEIP=address)
        assert paranoid.talk(source=f"{NETWORK}.2") == b"true.example 0\n"
        assert paranoid.talk(source=f"{NETWORK}.3") == b"none 0\n"
        assert servers("-pPRl0", *program, command=command, DNSCACHEIP=address).talk(source=f"{NETWORK}.3") == (
            b"liar.example 0\n"
        )
        silent = servers("-HRl0", *program, command=command, DNSCACHEIP=address, TCPREMOTEHOST="old")
        assert silent.talk(source=f"{NETWORK}.2") == b"none 0\n"


def reversed_network() -> str:
    """The middle two bytes of the network, the other way round."""
    return ".".join(NETWORK.split(".")[:0:-1])


@ROOT
@BOTH
@pytest.mark.contract("tcp 1.5", "tcp 2", "tcp 2.15", "tcp 4")
def test_the_ident_user_without_blanks(servers: Servers, command: tuple[str, ...]) -> None:
    client = f"{NETWORK}.2"
    program = ("--", "sh", "-c", 'echo "${TCPREMOTEINFO-none}"')
    with ident(client, b"1 , 2 : USERID : UNIX : j o\te:%\xff \r\n") as asked:
        server = servers("-vHl0", *program, command=command)
        with server.connect(client) as line:
            port = line.getsockname()[1]
            assert everything(line) == b"joe:%\xff\n"
        assert asked.asked == [b"%d , %d\r\n" % (port, server.port)]
        assert asked.peers == ["127.0.0.1"]
        assert f":{client}:joe???:{port}" in server.line_with(" ok ")
        assert servers("-HRl0", *program, command=command).talk(source=client) == b"none\n"
    assert server.talk(source=client) == b"none\n", "nobody answers"


@ROOT
@BOTH
@pytest.mark.contract("tcp 2.16")
def test_the_ident_timeout(servers: Servers, command: tuple[str, ...]) -> None:
    client = f"{NETWORK}.2"
    with ident(client, None) as asked:
        server = servers("-Hl0", "-t1", "--", "sh", "-c", 'echo "${TCPREMOTEINFO-none}"', command=command)
        assert server.talk(source=client) == b"none\n"
        assert len(asked.asked) == 1


@ROOT
@pytest.mark.contract("tcp 3", "tcp 7.1", "tcp 7.8")
@BOTH
def test_rules_by_user_and_name(servers: Servers, command: tuple[str, ...], tmp_path: Path) -> None:
    client, zones = f"{NETWORK}.2", {"127.in-addr.arpa": [f"2.{reversed_network()} PTR a.b.example."]}
    keys = [f"joe@{client}", "joe@=a.b.example", client, "=a.b.example", f"{NETWORK}.", "127.", "=.b.example", "=", ""]
    path = tmp_path / "r.cdb"
    with nameserver(f"{NETWORK}.53", zones) as address, ident(client, b"1,2:USERID:X:joe\r\n"):
        server = servers("-l0", "-x", str(path), "--", "sh", "-c", "echo $FOUND", command=command, DNSCACHEIP=address)
        for number in range(len(keys)):
            rules(path, "".join(f"{key}:allow,FOUND=/{key}/\n" for key in keys[number:]).encode())
            assert server.talk(source=client) == keys[number].encode() + b"\n"


@BOTH
@pytest.mark.contract("tcp 2.17", "tcp 2.18", "tcp 2.19")
@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        ((), 100, "tcpserver: usage: "),
        (("127.0.0.1", "0"), 100, "tcpserver: usage: "),
        (("-Z", "0", "0", "true"), 100, "tcpserver: illegal option -- Z\ntcpserver: usage: "),
        (("-x",), 100, "tcpserver: option requires an argument -- x\n"),
        (("0", "no-port", "true"), 111, "tcpserver: fatal: unable to figure out port number for no-port\n"),
        (("no.such.host.invalid.", "0", "true"), 111, "tcpserver: fatal: no IP address for no.such.host.invalid.\n"),
    ],
)
def test_bad_calls(command: tuple[str, ...], argv: tuple[str, ...], code: int, text: str) -> None:
    zones = {"invalid": []}
    if "invalid" in " ".join(argv):
        if os.geteuid() != 0:
            pytest.skip("needs root")
        with nameserver(f"{NETWORK}.53", zones) as address:
            done = bad_call(*argv, command=command, DNSCACHEIP=address)
    else:
        done = bad_call(*argv, command=command)
    assert done[0] == code
    assert done[1].startswith(text)


@BOTH
@pytest.mark.contract("tcp 2.20")
def test_a_port_in_use(command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = bad_call("127.0.0.1", port, "true", command=command)
    assert done == (111, "tcpserver: fatal: unable to bind: address already used\n")


@BOTH
@pytest.mark.contract("tcp 2.21")
def test_sigterm_ends_it_at_once_and_children_live_on(servers: Servers, command: tuple[str, ...]) -> None:
    server = servers("-RHl0", "--", "cat", command=command)
    with server.connect() as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        assert server.end() == 0
        client.sendall(b"b")
        assert client.recv(1) == b"b"


@BOTH
@pytest.mark.contract("tcp 2")
def test_descriptors_are_the_connection_and_no_others_are_open(servers: Servers, command: tuple[str, ...]) -> None:
    server = servers("-RHl0", "--", "sh", "-c", "cat; exec ls /proc/self/fd; ", command=command)
    assert server.talk(b"line\n") == b"line\n0\n1\n2\n3\n"


SIGNALS = r"sed -n 's/^Sig\(Ign\|Blk\|Cgt\):/\1/p' /proc/self/status"


@pytest.mark.contract("tcp 2")
def test_signals_are_as_a_fresh_program_expects_them(servers: Servers) -> None:
    zero = "0" * 16
    assert servers("-RHl0", "--", "sh", "-c", SIGNALS).talk() == f"Blk\t{zero}\nIgn\t{zero}\nCgt\t{zero}\n".encode()


@BOTH
@pytest.mark.contract("tcp 2")
def test_a_program_that_cannot_run(servers: Servers, command: tuple[str, ...]) -> None:
    server = servers("-vRHl0", "--", "no-such-program", command=command)
    assert server.talk() == b""
    assert server.line_with("warning") == (
        "tcpserver: warning: dropping connection, unable to run no-such-program: file does not exist"
    )
    assert server.line().endswith(f" status {111 << 8}")


@BOTH
@pytest.mark.contract("tcp 2")
@pytest.mark.parametrize("host", ["0", "localhost"])
def test_the_host_may_be_all_addresses_or_a_name(servers: Servers, command: tuple[str, ...], host: str) -> None:
    if host != "0" and command == DEBIAN:
        return  # it asks DNS, not the hosts file
    server = servers("-RHl0", "--", "sh", "-c", "echo $TCPLOCALIP", host=host, command=command)
    server.host = "127.0.0.1"
    assert server.talk() == b"127.0.0.1\n"


@pytest.mark.contract("tcp 2")
def test_the_port_may_be_the_name_of_a_service() -> None:
    done = bad_call("192.0.2.1", "smtp", "true")
    assert done[0] == 111 and done[1].startswith("tcpserver: fatal: unable to bind: "), done


def test_ipv6(servers: Servers) -> None:
    server = servers("-vRHl0", "--", "sh", "-c", "echo $PROTO $TCPREMOTEIP $TCPLOCALIP", host="::1")
    assert server.talk() == b"TCP ::1 ::1\n"
    assert re.search(r" ok \d+ 0:::1:\d+ :::1::\d+$", server.line_with(" ok "))


def test_an_ipv4_client_of_an_ipv6_server_has_its_ipv4_address(servers: Servers, tmp_path: Path) -> None:
    path = rules(tmp_path / "r.cdb", b"127.0.0.1:allow,A=/four/\n[::1]:allow,A=/six/\n:deny\n")
    server = servers("-RHl0", "-x", path, "--", "sh", "-c", "echo $TCPREMOTEIP $A", host="::")
    server.host = "127.0.0.1"
    assert server.talk() == b"127.0.0.1 four\n"
    server.host = "::1"
    assert server.talk() == b"::1 six\n"


@ROOT
def test_names_and_users_of_ipv6_clients(servers: Servers) -> None:
    labels = ".".join(["1", *["0"] * 31])
    zones = {"ip6.arpa": [f"{labels} PTR six.example."], "example": ["six AAAA ::1"]}
    program = ("--", "sh", "-c", 'echo "$TCPREMOTEHOST $TCPREMOTEINFO"')
    with nameserver(f"{NETWORK}.53", zones) as address, ident("::1", b"1,2:USERID:UNIX:me\r\n"):
        server = servers("-pl0", *program, host="::1", DNSCACHEIP=address)
        assert server.talk() == b"six.example me\n"


@ROOT
def test_the_name_servers_are_those_of_the_control_directory(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "dnsservers").write_text(f"{NETWORK}.53\n")
    zones = {"127.in-addr.arpa": [f"2.{reversed_network()} PTR me.example."]}
    with nameserver(f"{NETWORK}.53", zones):
        server = servers("-Rl0", "--", "sh", "-c", "echo $TCPREMOTEHOST", QMAIL_HOME=str(tmp_path))
        assert server.talk(source=f"{NETWORK}.2") == b"me.example\n"


@pytest.mark.contract("tcp 7.9")
def test_children_are_collected_at_once(servers: Servers) -> None:
    server = servers("-vRHl0", "--", "true")
    for _ in range(5):
        server.talk()
        assert server.line_with(" end ")
        assert server.line() == "tcpserver: status: 0/40"
    wait_for(lambda: not server.children(), "the child to be collected")
