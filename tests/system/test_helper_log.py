"""The lines of a helper of qmail-start, whose descriptor 2 is /dev/null."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyqmail.log.bugs import tell_bug
from pyqmail.system import helper_log
from pyqmail.system.helper_log import HelperLog


@contextmanager
def nothing_on_2() -> Iterator[None]:
    """Descriptor 2 is /dev/null."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@pytest.fixture
def syslog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where the machine's log would be."""
    monkeypatch.setattr(helper_log, "SYSLOG", str(tmp_path / "log"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "log"))
        sock.settimeout(10)
        yield sock


@pytest.mark.parametrize(
    ("text", "priority"), [(b"over limit: x", 22), (b"warning: y", 20), (b"alert: " + b"z" * 5000, 17)]
)
def test_a_line_is_one_entry_of_syslogs(syslog: socket.socket, text: bytes, priority: int) -> None:
    with nothing_on_2():
        HelperLog(b"qmail-stated").say(text)
    entry = syslog.recv(10_000)
    found = re.fullmatch(rb"<(\d+)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d qmail-stated: (.*)", entry)
    assert found is not None and int(found[1]) == priority
    assert text.startswith(found[2]) and len(entry) == min(helper_log.LINE_MAX, len(entry))


def test_a_bug_is_told_there_and_a_logger_that_takes_nothing_stops_nobody(syslog: socket.socket) -> None:
    with nothing_on_2():
        tell_bug("qmail-queue", KeyError(7))
        assert b"qmail-queue: alert: bug: KeyError: 7" in syslog.recv(10_000)
        for _ in range(1000):  # more than it takes
            HelperLog(b"qmail-queue").say(b"x" * 1000)
        syslog.close()
        HelperLog(b"qmail-queue").say(b"nobody is there")


def test_elsewhere_it_is_descriptor_2(capfd: pytest.CaptureFixture[str]) -> None:
    HelperLog(b"qmail-stated").say(b"warning: x")
    assert capfd.readouterr().err == "qmail-stated: warning: x\n"
