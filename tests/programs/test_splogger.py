"""splogger: what becomes of each line."""

import os
import subprocess
import sys
import syslog

import pytest

from pyqmail.programs.splogger import Entries, copy_log
from tests.programs.sending import BIN


@pytest.mark.contract("send 10")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"status: x", [(syslog.LOG_INFO, b"12.500000 status: x")]),
        (b"warning: x", [(syslog.LOG_WARNING, b"12.500000 warning: x")]),
        (b"alert: x", [(syslog.LOG_ALERT, b"12.500000 alert: x")]),
        (b"a\tb\xff", [(syslog.LOG_INFO, b"12.500000 a?b?")]),
        (b"", []),
        (b"y" * 800, [(syslog.LOG_INFO, b"12.500000 " + b"y" * 799), (syslog.LOG_INFO, b"12.500000+y")]),
    ],
    ids=["info", "warning", "alert", "odd bytes are question marks", "an empty line is none", "a long line goes on"],
)
def test_entries(line: bytes, expected: list[tuple[int, bytes]]) -> None:
    for size in (1, 7, 2000):
        seen: list[tuple[int, bytes]] = []
        entries = Entries(lambda priority, text: seen.append((priority, text)), lambda: 12.5)  # noqa: B023
        text = line + b"\nnext\n"
        for start in range(0, len(text), size):
            entries.feed(text[start : start + size])
        assert seen == [*expected, (syslog.LOG_INFO, b"12.500000 next")]


@pytest.mark.contract("send 10")
def test_a_line_without_end_is_not_kept() -> None:
    seen: list[bytes] = []
    entries = Entries(lambda priority, text: seen.append(text), lambda: 1.0)
    for _ in range(100):
        entries.feed(b"alert: " + b"z" * 993)
    assert len(seen) == 125
    assert {text[8:9] for text in seen[1:]} == {b"+"}


@pytest.mark.contract("send 10")
def test_an_unterminated_last_line_is_dropped() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"one\n\ntwo\nthree")
    os.close(writer)
    seen: list[bytes] = []
    copy_log(reader, lambda priority, text: seen.append(text.partition(b" ")[2]))
    os.close(reader)
    assert seen == [b"one", b"two"]


@pytest.mark.contract("send 10")
def test_the_program_exits_0_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-ISXutf8", str(BIN / "splogger"), "tag", "3"], input=b"x\n", check=False)
    assert done.returncode == 0
