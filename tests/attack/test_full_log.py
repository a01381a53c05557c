"""A logger that reads no more: tcpserver serves on."""

import os
import time
from pathlib import Path

import pytest

from tests.programs.tcp_servers import OURS, Running

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("program", [["cat"], [str(ROOT / "bin/qmail-qmqpd")]], ids=["executed", "from memory"])
def test_a_log_that_nobody_reads_stops_no_connection(program: list[str]) -> None:
    server = Running(OURS, ("-v", "-H", "-R", "-l0", "--", *program), "127.0.0.1", {})
    try:
        assert server.process.stderr is not None
        fd = os.open(f"/proc/{server.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(fd, b"x" * 4095 + b"\n")
        except BlockingIOError:
            os.close(fd)
        began = time.monotonic()
        for _ in range(30):  # each has lines of its own; waiting for each would take a minute and more
            server.talk(b"hello")
        assert time.monotonic() - began < 20
        server.line_with("x")
        server.talk(b"hello")
        server.line_with("lines of the log were lost")
    finally:
        server.process.kill()
        server.process.wait()
