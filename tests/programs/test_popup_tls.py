"""POP3 under TLS: qmail-popup, cold, with a certificate, and a checker that goes on in clear behind it."""

import _ssl
import contextlib
import ctypes
import os
import poplib
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import client_context, self_signed, signed_by
from tests.public_directory import public_directory
from tests.waiting import wait_for

BIN = Path(__file__).resolve().parents[2] / "bin"
DEADLINE_S = 60
UID, GID = 64501, 64502
CHECKER = r"""#!{python} -IS
import os, sys
data = b""
while chunk := os.read(3, 4096):
    data += chunk
open({base!r} + "/request", "wb").write(data)
fds = os.listdir("/proc/self/fd")
open({base!r} + "/fds", "w").write(" ".join(sorted(fds)))
os.write(1, b"+OK in\r\n")
line = b""
while not line.endswith(b"\n"):
    line = os.read(0, 4096)
    if not line:
        os._exit(0)
    if line.startswith(b"BIG"):
        big = b"x" * 3000000
        while big:
            big = big[os.write(1, big):]
    line = b"\n" if line.startswith(b"QUIT") else b""
os.write(1, b"+OK bye\r\n")
"""


class PopHome:
    """A home with a certificate, and one session at a time."""

    def __init__(self, base: Path, pem: Path) -> None:
        self.base, self.pem = base, pem
        (base / "control").mkdir()
        (base / "control/conf-users").write_text(f"{UID}\n{UID}\n" + f"{UID}\n" * 6)
        (base / "control/conf-groups").write_text(f"{GID}\n{GID}\n")
        self.certificate = base / "control/servercert.pem"
        shutil.copy(pem, self.certificate)
        self.certificate.chmod(0o400)
        if os.geteuid() == 0:
            os.chown(self.certificate, UID, GID)
        self.checker = base / "checker"
        self.checker.write_text(CHECKER.format(python=sys.executable, base=str(base)))
        self.checker.chmod(0o755)
        self.environ = {"QMAIL_HOME": str(base), "PATH": "/usr/bin:/bin", "TCPREMOTEIP": "192.0.2.7"}
        self.log = base / "log"

    def start(self, **environ: str) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs = server.accept()[0]
        ours.settimeout(DEADLINE_S)
        with self.log.open("wb") as log, theirs:
            process = subprocess.Popen(
                [BIN / "qmail-popup", "pop.test", str(self.checker)],
                stdin=theirs, stdout=theirs, stderr=log, env=self.environ | environ,
            )  # fmt: skip
        return ours, process


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def home(pem: Path) -> Iterator[PopHome]:
    with public_directory() as base:
        yield PopHome(base, pem)


def line(sock: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"\n") and (piece := sock.recv(1)):
        said += piece
    return said


def say(sock: socket.socket, command: bytes) -> bytes:
    sock.sendall(command + b"\r\n")
    return line(sock)


def capabilities(sock: socket.socket) -> list[bytes]:
    assert say(sock, b"CAPA").startswith(b"+OK")
    found = []
    while (one := line(sock)) != b".\r\n":
        found.append(one.strip())
    return found


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rest(sock: socket.socket) -> bytes:
    said = b""
    try:
        while piece := sock.recv(65536):
            said += piece
    except OSError:
        pass
    return said


def test_stls_hides_the_password_and_the_checker_sees_clear_text(home: PopHome) -> None:
    sock, process = home.start()
    stamp = line(sock)[4:-2]
    assert capabilities(sock) == [b"TOP", b"USER", b"UIDL", b"STLS"]
    assert say(sock, b"USER before") == b"+OK \r\n"
    assert say(sock, b"STLS") == b"+OK begin TLS negotiation\r\n"
    secured = client_context(home.pem).wrap_socket(sock, server_hostname="mx.test")
    assert capabilities(secured) == [b"TOP", b"USER", b"UIDL"]
    assert say(secured, b"STLS") == b"-ERR authorization first\r\n"
    assert say(secured, b"PASS x") == b"-ERR USER first\r\n"  # what was said in clear is forgotten
    assert say(secured, b"USER joe") == b"+OK \r\n"
    assert say(secured, b"PASS secret") == b"+OK in\r\n"
    secured.sendall(b"BIG\r\n")
    left = 3_000_000
    while left:
        left -= len(secured.recv(min(left, 65536)))
    assert say(secured, b"QUIT") == b"+OK bye\r\n"
    assert secured.recv(1) == b""  # close_notify came: Python would raise without it
    assert process.wait(DEADLINE_S) == 1
    assert (home.base / "request").read_bytes() == b"joe\0secret\0" + stamp + b"\0"
    assert (home.base / "fds").read_text().split() == ["0", "1", "2", "3", "4"]  # the last one is of the listing
    assert home.log.read_bytes() == b""


def test_pop3s_begins_with_tls(home: PopHome) -> None:
    sock, process = home.start(POP3S="1", UCSPITLS="!")
    secured = client_context(home.pem).wrap_socket(sock, server_hostname="mx.test")
    assert line(secured).startswith(b"+OK <")
    assert capabilities(secured) == [b"TOP", b"USER", b"UIDL"]
    assert say(secured, b"USER joe") == b"+OK \r\n"
    assert say(secured, b"QUIT") == b"+OK \r\n"
    assert (secured.recv(1), process.wait(DEADLINE_S)) == (b"", 1)


def test_no_password_before_tls_where_it_is_required(home: PopHome) -> None:
    sock, process = home.start(UCSPITLS="!")
    line(sock)
    assert capabilities(sock) == [b"TOP", b"UIDL", b"STLS"]
    for command in (b"USER joe", b"PASS x", b"APOP joe x"):
        assert say(sock, command) == b"-ERR must issue STLS first\r\n"
    assert say(sock, b"STLS").startswith(b"+OK")
    secured = client_context(home.pem).wrap_socket(sock, server_hostname="mx.test")
    assert say(secured, b"USER joe") == b"+OK \r\n"
    secured.close()
    assert process.wait(DEADLINE_S) == 1


@pytest.mark.parametrize("environ", [{"DISABLETLS": "1"}, {"UCSPITLS": "-"}, {"DISABLETLS": "1", "POP3S": "1"}, None])
def test_where_there_is_none_nothing_is_split(home: PopHome, environ: dict[str, str] | None) -> None:
    if environ is None:
        home.certificate.unlink()
    sock, process = home.start(**(environ or {}))
    line(sock)
    assert capabilities(sock) == [b"TOP", b"USER", b"UIDL"]
    assert children(process.pid) == []
    assert say(sock, b"STLS") == b"-ERR authorization first\r\n"
    assert say(sock, b"QUIT") == b"+OK \r\n"
    assert process.wait(DEADLINE_S) == 1


@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "in two"])
def test_what_is_injected_behind_stls_is_never_obeyed(home: PopHome, together: bool) -> None:
    sock, process = home.start()
    line(sock)
    for piece in (b"STLS\r\nUSER evil\r\nPASS evil\r\n",) if together else (b"STLS\r\n", b"USER evil\r\nPASS evil\r\n"):
        sock.sendall(piece)
    said = rest(sock)
    assert said.startswith((b"-ERR nothing may follow STLS in clear\r\n", b"+OK begin TLS negotiation\r\n"))
    assert b"+OK in" not in said
    assert not together or said == b"-ERR nothing may follow STLS in clear\r\n"
    assert process.wait(DEADLINE_S) == 1
    assert not (home.base / "request").exists()


def test_a_broken_certificate_is_an_error_and_the_session_goes_on(home: PopHome) -> None:
    home.certificate.chmod(0o600)
    home.certificate.write_text("broken")
    sock, process = home.start()
    line(sock)
    assert say(sock, b"STLS") == b"-ERR TLS not available at the moment\r\n"
    assert say(sock, b"STLS") == b"-ERR TLS not available at the moment\r\n"
    assert say(sock, b"USER joe") == b"+OK \r\n"
    assert say(sock, b"QUIT") == b"+OK \r\n"
    process.wait(DEADLINE_S)
    log = home.log.read_text()
    assert log.startswith("qmail-popup: alert: control/servercert.pem: ") and log.count("\n") == 1


def test_a_failed_handshake_is_a_line(home: PopHome) -> None:
    sock, process = home.start(POP3S="1")
    sock.sendall(b"CAPA\r\n" * 10)
    assert b"+OK" not in rest(sock)
    assert process.wait(DEADLINE_S) == 1
    assert home.log.read_text().startswith("qmail-popup: tls-failed ip=192.0.2.7 reason=")


def test_pop3s_without_a_certificate_says_nothing_in_clear(home: PopHome) -> None:
    home.certificate.unlink()
    sock, process = home.start(POP3S="1")
    assert rest(sock) == b""
    assert process.wait(DEADLINE_S) == 1
    assert home.log.read_text().startswith("qmail-popup: alert: no TLS without control/servercert.pem")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the half becomes another user")
def test_what_the_half_is_and_has(home: PopHome) -> None:
    sock, process = home.start()
    line(sock)
    (half,) = children(process.pid)
    wait_for(lambda: f"Uid:\t{UID}\t{UID}\t{UID}" in Path(f"/proc/{half}/status").read_text(), "another user")
    status = Path(f"/proc/{half}/status").read_text()
    assert f"Gid:\t{GID}\t{GID}\t{GID}\t{GID}\n" in status and f"Groups:\t{GID} \n" in status
    links = {int(path.name): os.readlink(path) for path in Path(f"/proc/{half}/fd").iterdir()}
    assert links[0] == links[1] and links[2] == str(home.log)
    assert len(links) == 5 and all(link.startswith("socket:") for fd, link in links.items() if fd != 2)
    assert links[0] not in [os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert say(sock, b"STLS").startswith(b"+OK")
    secured = client_context(home.pem).wrap_socket(sock, server_hostname="mx.test")
    assert say(secured, b"NOOP") == b"+OK \r\n"
    rollup = Path(f"/proc/{half}/smaps_rollup").read_text().splitlines()
    own = sum(int(row.split()[1]) for row in rollup if row.startswith(("Private_Dirty", "Private_Clean")))
    print(f"the half has {own} KiB of its own")
    assert own <= (3.5 if ssl.OPENSSL_VERSION_INFO >= (3, 5) else 3) * 1024  # that one has keys of more kinds
    secured.close()
    assert process.wait(DEADLINE_S) == 1
    assert not Path(f"/proc/{half}").exists()


def test_a_certificate_of_the_client_is_required_where_the_rules_say_so(
    home: PopHome, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = self_signed(tmp_path_factory.mktemp("authority"), "ca.test")
    own = signed_by(authority, tmp_path_factory.mktemp("clients"), "desk.test")
    text = authority.read_text()
    (home.base / "control/clientca.pem").write_text(text[text.index("-----BEGIN CERT") :])
    for stranger in (None, home.pem):
        context = client_context(home.pem)
        if stranger is not None:
            context.load_cert_chain(stranger)
        sock, process = home.start(UCSPITLS="@", POP3S="1")
        with contextlib.suppress(OSError):
            assert rest(context.wrap_socket(sock, server_hostname="mx.test")) == b""
        assert process.wait(DEADLINE_S) == 1
        assert home.log.read_text().startswith("qmail-popup: tls-failed ip=192.0.2.7 reason=")
    context.load_cert_chain(own)
    sock, process = home.start(UCSPITLS="@", POP3S="1")
    secured = context.wrap_socket(sock, server_hostname="mx.test")
    assert line(secured).startswith(b"+OK ") and say(secured, b"QUIT") == b"+OK \r\n"
    assert (process.wait(DEADLINE_S), home.log.read_text()) == (1, "")


class Openssl:
    """A client of OpenSSL's own functions, on the socket ``sock``."""

    UPDATE_REQUESTED = 1

    def __init__(self, sock: socket.socket) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._library = library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        for name, result, arguments in (
            ("TLS_client_method", pointer, []),
            ("SSL_CTX_new", pointer, [pointer]),
            ("SSL_new", pointer, [pointer]),
            ("SSL_set_fd", number, [pointer, number]),
            ("SSL_connect", number, [pointer]),
            ("SSL_key_update", number, [pointer, number]),
            ("SSL_do_handshake", number, [pointer]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._connection = library.SSL_new(library.SSL_CTX_new(library.TLS_client_method()))
        assert library.SSL_set_fd(self._connection, sock.fileno()) == 1
        assert library.SSL_connect(self._connection) == 1

    def ask_for_new_keys(self) -> bool:
        """Whether the peer takes that, which it has to answer (RFC 8446 section 4.6.3)."""
        library = self._library
        asked = library.SSL_key_update(self._connection, self.UPDATE_REQUESTED) == 1
        return asked and library.SSL_do_handshake(self._connection) == 1


def test_who_wants_answers_and_reads_none_is_read_no_more(home: PopHome) -> None:
    """Answers of OpenSSL's own, before anybody has logged in, must not pile up in the half."""
    ours, theirs = socket.socketpair()
    words = [BIN / "qmail-popup", "pop.test", str(home.checker)]
    with home.log.open("wb") as log, theirs:
        environ = home.environ | {"POP3S": "1"}
        process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=log, env=environ)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 2, 0))
    client = Openssl(ours)
    most = 60_000
    taken = next((number for number in range(most) if not client.ask_for_new_keys()), most)
    assert taken < most
    ours.close()
    assert process.wait(DEADLINE_S) == 1


def test_python_s_poplib(home: PopHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.setblocking(True)
        process = subprocess.Popen(
            [sys.executable, "-c", "import socket,sys,subprocess\ns=socket.socket(fileno=int(sys.argv[1]))\n"
             "c=s.accept()[0]\nsys.exit(subprocess.call(sys.argv[2:],stdin=c,stdout=c))", str(server.fileno()),
             str(BIN / "qmail-popup"), "pop.test", str(home.checker)],
            pass_fds=[server.fileno()], env=home.environ,
        )  # fmt: skip
        client = poplib.POP3("localhost", port, timeout=DEADLINE_S)
        assert b"STLS" in client.stls(ssl._create_unverified_context()) or "STLS" not in client.capa()
        assert client.user("joe").startswith(b"+OK") and client.pass_("x") == b"+OK in"
        assert client.quit() == b"+OK bye"
        assert process.wait(DEADLINE_S) == 1


def test_a_client_that_goes_away_in_its_handshake_ends_both_halves(home: PopHome) -> None:
    sock, process = home.start(POP3S="1")
    sock.sendall(b"\x16\x03\x01\x02\x00\x01")
    assert not select.select([sock], [], [], 0.2)[0]
    sock.close()
    assert process.wait(DEADLINE_S) == 1
    assert "tls-failed" in home.log.read_text()
