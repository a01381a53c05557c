"""POP3 from tcpserver's memory: qmail-popup, checkpassword and qmail-pop3d without an interpreter for each."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqmail.admin.catalogue import PROGRAMS
from pyqmail.launch import launcher_text
from pyqmail.login.passwords import hash_password
from pyqmail.login.virtual_users import VirtualUser, write_users
from pyqmail.tcp.chain import FOLLOWING
from tests.certificates import self_signed
from tests.login.test_service import authd
from tests.programs.door import DEADLINE_S, Door, door_of
from tests.programs.tcp_servers import BIN, Running, Servers
from tests.waiting import wait_for

UID = 40001
NAMES = ("qmail-popup", "checkpassword", "qmail-pop3d")


@pytest.fixture
def door() -> Iterator[Door]:
    """A home with a virtual user, who has one message, and launchers that a test may change."""
    with door_of("qmail-popup") as made:
        made.base.chmod(0o755)  # for the user
        for name in ("run", "users", "bin", "ann/Maildir/cur", "ann/Maildir/new", "ann/Maildir/tmp"):
            (made.base / name).mkdir(parents=True)
        (made.base / "ann/Maildir/cur/1.old").write_text("Subject: one\n\ntext\n")
        os.utime(made.base / "ann/Maildir/cur/1.old", (0, 0))
        subprocess.run(["chown", "-R", f"{UID}:{UID}", made.base / "ann"], check=True)
        ann = VirtualUser(b"ann@v.example", hash_password(b"right"), b"", UID, UID, os.fsencode(made.base / "ann"))
        write_users(str(made.base), {ann.address: ann})
        for name in NAMES:
            write_launcher(made.base / "bin" / name, name)
        yield made


def write_launcher(path: Path, name: str) -> None:
    program = PROGRAMS[name]
    path.write_text(launcher_text(program.module, program.crash_exit, sys.executable, str(BIN.parent)))
    path.chmod(0o755)


def start(servers: Servers, door: Door) -> Running:
    """The server on the command line of INSTALL, with counts that all its processes share."""
    popup, check, pop3d = (str(door.base / "bin" / name) for name in NAMES)
    return servers("-RHl0", "-m9", "-M99", "--", popup, "mx.test", check, pop3d, "Maildir", QMAIL_HOME=str(door.base))


def log_in(server: Running, password: bytes = b"right") -> tuple[socket.socket, bytes]:
    """A connection, and what PASS is answered by."""
    client = server.connect()
    for line in (b"", b"USER ann@v.example\r\n", b"PASS " + password + b"\r\n"):
        client.sendall(line)
        reply = client.recv(4096)
    return client, reply


def below(pid: int) -> list[int]:
    """All processes that began below ``pid``, the last one last."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []  # it has just ended
    return children + [other for child in children for other in below(child)]


def last_command(server: Running) -> bytes:
    return Path(f"/proc/{below(server.pid)[-1]}/cmdline").read_bytes().rstrip(b"\0")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which becomes the user")
def test_the_user_s_process_has_nothing_of_root_s(servers: Servers, door: Door) -> None:
    door.control(authd="virtual")
    pem = self_signed(door.base, "mx.test").rename(door.base / "control/servercert.pem")  # so that there is TLS, too
    shutil.chown(pem, "qmaild")
    pem.chmod(0o400)
    process = authd(door)
    try:
        server = start(servers, door)
        client, reply = log_in(server)
        assert reply.startswith(b"+OK")
        pid = below(server.pid)[-1]
        assert last_command(server) == b"qmail-pop3d", "it has been executed"
        status = Path(f"/proc/{pid}/status").read_text()
        ids = "\t".join([str(UID)] * 4)
        assert f"Uid:\t{ids}\n" in status and f"Gid:\t{ids}\n" in status and f"Groups:\t{UID} \n" in status
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        assert " rw-s " not in Path(f"/proc/{pid}/maps").read_text(), "memory that is the server's, too"
        assert b"right" not in Path(f"/proc/{pid}/environ").read_bytes()
        peek = subprocess.run(["head", "-c1", f"/proc/{pid}/maps"], user=UID, group=UID, capture_output=True)
        assert peek.returncode and b"ermission denied" in peek.stderr, "the user may look into it"
        client.sendall(b"RETR 1\r\n")
        assert b"\r\n\r\ntext\r\n" in everything_of(client)
        client.sendall(b"QUIT\r\n")
        assert client.recv(4096).startswith(b"+OK")
        client.close()
        wait_for(lambda: not below(server.pid), "the session's end")
        client, reply = log_in(server, b"wrong")
        assert reply == b"-ERR authorization failed\r\n"
        client.close()
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def everything_of(client: socket.socket) -> bytes:
    """An answer of several lines."""
    data = b""
    while not data.endswith(b"\r\n.\r\n"):
        piece = client.recv(4096)
        assert piece, data
        data += piece
    return data


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which becomes the user")
def test_who_has_read_the_passwords_gives_up_its_memory(servers: Servers, door: Door) -> None:
    """Without qmail-authd checkpassword reads users/virtual.cdb, or /etc/shadow by PAM."""
    client, reply = log_in(server := start(servers, door))
    assert reply.startswith(b"+OK")
    assert b"-ISXutf8" in last_command(server)
    client.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which becomes the user")
@pytest.mark.parametrize("changed", NAMES[1:])
def test_another_program_in_its_place_is_executed(servers: Servers, door: Door, changed: str) -> None:
    door.control(authd="virtual")
    process = authd(door)
    try:
        server = start(servers, door)
        other = door.base / "bin/other"
        other.write_text("#!/bin/sh\nprintf '+OK by another\\r\\n'\n")
        other.chmod(0o755)
        other.rename(door.base / "bin" / changed)
        client, reply = log_in(server)
        assert reply.startswith(b"+OK by another\r\n")
        client.close()
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def test_an_escape_exits_with_what_the_launcher_would(door: Door) -> None:
    of = {program.module: program.crash_exit for program in PROGRAMS.values()}
    assert {module: of[module] for module in FOLLOWING} == FOLLOWING
