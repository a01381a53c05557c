"""qmail-tcpto and qmail-tcpok as processes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyqmail.programs.qmail_tcpto import format_table
from tests.scripted_peers import REPO, remote_home, run_program


@pytest.mark.contract("remote 6.9")
def test_only_records_in_use_are_listed() -> None:
    table = (
        bytes((192, 0, 2, 1, 2, 0, 0, 0)) + (1000).to_bytes(4, "little") + bytes(4) + bytes((192, 0, 2, 2)).ljust(16)
    )
    table = table[:20] + b"\0" + table[21:]
    assert format_table(table, 1060) == b"192.0.2.1 timed out 60 seconds ago; # recent timeouts: 2\n"


@pytest.mark.contract("remote 6.9", "remote 6.10")
def test_tcpto_prints_and_tcpok_forgets(tmp_path: Path) -> None:
    home = remote_home(tmp_path)
    record = bytes((192, 0, 2, 1, 3, 0, 0, 0)) + int(time.time()).to_bytes(4, "little")
    (home / "queue" / "lock" / "tcpto").write_bytes(record.ljust(1024, b"\0"))
    status, printed = run_program("pyqmail.programs.qmail_tcpto", [], home)
    assert status == 0 and printed.startswith(b"192.0.2.1 timed out ") and printed.endswith(b"timeouts: 3\n")
    assert run_program("pyqmail.programs.qmail_tcpok", [], home) == (0, b"")
    assert (home / "queue" / "lock" / "tcpto").read_bytes() == bytes(1024)
    assert run_program("pyqmail.programs.qmail_tcpto", [], home) == (0, b"")


@pytest.mark.contract("remote 6.9", "remote 6.10")
def test_trouble_is_111_and_tcpto_says_so_on_stdout(tmp_path: Path) -> None:
    status, printed = run_program("pyqmail.programs.qmail_tcpto", [], tmp_path)
    assert status == 111 and printed.startswith(b"fatal: unable to ")
    assert run_program("pyqmail.programs.qmail_tcpok", [], tmp_path) == (111, b"")


@pytest.mark.contract("remote 6.10")
def test_tcpok_complains_on_stderr_in_the_form_of_the_original(tmp_path: Path) -> None:
    command = [sys.executable, "-ISXutf8", str(REPO / "bin" / "qmail-tcpok")]
    done = subprocess.run(command, env={"QMAIL_HOME": str(tmp_path)}, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (111, b"")
    assert done.stderr.startswith(b"qmail-tcpok: fatal: unable to ") and done.stderr.endswith(b"\n")
