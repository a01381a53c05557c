"""What a session of SMTP under TLS costs qmail-smtpd, in system calls, which do not drift with the machine.

A limit here may be lowered freely; raising one needs a line in the changelog with its measurement.
"""

import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import client_context, self_signed
from tests.integration.test_message_cost import calls_told, traced
from tests.programs.tcp_servers import BIN, Running, Servers
from tests.public_directory import public_directory

SESSIONS = 20
ROUNDS = 4


@pytest.fixture
def home() -> Iterator[Path]:
    with public_directory() as base:
        (base / "control").mkdir()
        (base / "control/me").write_text("mx.test\n")
        (base / "control/rcpthosts").write_text("here.test\n")
        yield base


def ask(sock: socket.socket, command: bytes, code: bytes) -> None:
    """Say it, and hear all of a reply that begins with ``code``."""
    sock.sendall(command)
    said = b""
    while not said.endswith(b"\r\n") or said.splitlines()[-1][3:4] == b"-":
        said += sock.recv(4096) or pytest.fail(f"the end after {said!r}")
    assert said.startswith(code)


def session(server: Running, context: ssl.SSLContext, *, implicit: bool) -> None:
    """Greeting, EHLO, TLS, EHLO and QUIT."""
    with server.connect() as clear:
        if not implicit:
            for command, code in ((b"", b"220"), (b"EHLO client.test\r\n", b"250"), (b"STARTTLS\r\n", b"220")):
                ask(clear, command, code)
        with context.wrap_socket(clear, server_hostname="mx.test") as secure:
            if implicit:
                ask(secure, b"", b"220")
            ask(secure, b"EHLO client.test\r\n", b"250")
            ask(secure, b"QUIT\r\n", b"221")
            assert secure.recv(100) == b""  # its goodbye has come: the end without one raises


@pytest.mark.parametrize(
    ("implicit", "limit"),
    [
        pytest.param(False, 27.0, id="STARTTLS, measured: 24.9"),
        pytest.param(True, 23.0, id="TLS from the start, measured: 21.0"),
    ],
)
def test_a_session_under_tls_stays_within_its_budget(
    servers: Servers, home: Path, tmp_path: Path, implicit: bool, limit: float
) -> None:
    pem = self_signed(tmp_path)
    (home / "control/servercert.pem").write_bytes(pem.read_bytes())
    (home / "control/servercert.pem").chmod(0o400)
    smtps = "1" if implicit else "0"
    server = servers("-RHl0", "-c1", "--", str(BIN / "qmail-smtpd"), QMAIL_HOME=str(home), SMTPS=smtps)
    context = client_context(pem)
    for _ in range(SESSIONS):  # what is loaded and looked up once
        session(server, context, implicit=implicit)
    # On a busy machine a wait may be in vain, and be done again: what counts is that so little can do.
    rounds: list[dict[str, float]] = []
    while len(rounds) < ROUNDS and (not rounds or sum(rounds[-1].values()) > limit):
        folder = tmp_path / str(len(rounds))
        folder.mkdir()
        tracers = [tracer for pid in server.children() if (tracer := traced(pid, folder))]
        for _ in range(SESSIONS):
            session(server, context, implicit=implicit)
        for tracer in tracers:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()
        rounds.append(calls_in(folder))
    assert sum(rounds[-1].values()) <= limit, rounds


def calls_in(folder: Path) -> dict[str, float]:
    """System calls a session, by name."""
    calls = calls_told(folder)
    assert calls["accept4"] >= SESSIONS, "another process has served some"
    return {name: count / SESSIONS for name, count in calls.most_common()}
