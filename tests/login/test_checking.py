"""What the parent of the checks loads before it forks one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyqmail.login import checking
from pyqmail.protocol.sasl import Credentials

CHILD = 4711


@pytest.mark.parametrize(
    ("authd", "user", "loads"),
    [
        pytest.param("", b"ann", True, id="an account of the system"),
        pytest.param("virtual\nsystem\n", b"ann", True, id="an account, where both are asked"),
        pytest.param("", b"ann@x.test", False, id="a virtual user"),
        pytest.param("virtual\n", b"ann", False, id="an account, where virtual users alone are known"),
        pytest.param("dovecot:/run/auth\n", b"ann", False, id="a user of Dovecot's"),
        pytest.param("/bin/checker\n", b"ann", False, id="a user of a program's"),
    ],
)
def test_pam_is_loaded_once_for_all_checks_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authd: str, user: bytes, loads: bool
) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/authd").write_text(authd)
    done: list[str] = []
    monkeypatch.setattr(checking, "prepare_pam", lambda: done.append("load"))
    monkeypatch.setattr(os, "fork", lambda: done.append("fork") or CHILD)
    assert checking.start(str(tmp_path), Credentials(b"plain", user, b"x"), b"127.0.0.1", single_user=False) == CHILD
    assert done == (["load", "fork"] if loads else ["fork"])


def test_the_modules_of_pam_are_in_the_memory_of_those_who_fork() -> None:
    pytest.importorskip("pamela")
    script = "from pyqmail.login.accounts import prepare_pam as p; p(); p(); print(open('/proc/self/maps').read())"
    root = Path(__file__).resolve().parents[2]
    shown = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert "/security/pam_" in shown.stdout
