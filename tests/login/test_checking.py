"""What the parent of the checks loads before it forks one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyqmail.login import checking
from pyqmail.protocol.sasl import Credentials


@pytest.mark.parametrize(
    ("authd", "loads"),
    [
        pytest.param("", True, id="all that there are"),
        pytest.param("virtual\nsystem\n", True, id="both"),
        pytest.param("virtual\n", False, id="virtual users alone"),
        pytest.param("dovecot:/run/auth\n", False, id="users of Dovecot's"),
        pytest.param("/bin/checker\n", False, id="users of a program's"),
    ],
)
def test_pam_is_loaded_for_those_who_ask_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authd: str, loads: bool
) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control/authd").write_text(authd)
    done: list[str] = []
    monkeypatch.setattr(checking, "prepare_pam", lambda: done.append("load"))
    checking.prepare(str(tmp_path))
    assert done == ["load"] * loads


@pytest.mark.parametrize(
    ("user", "single_user", "found"), [(b"ann", False, True), (b"ann@x.test", False, False), (b"ann", True, False)]
)
def test_a_name_without_a_domain_is_an_account_of_the_system(user: bytes, single_user: bool, found: bool) -> None:
    assert checking.of_system(Credentials(b"plain", user, b"x"), single_user=single_user) is found


def test_the_modules_of_pam_are_in_the_memory_of_those_who_fork() -> None:
    pytest.importorskip("pamela")
    script = "from pyqmail.login.accounts import prepare_pam as p; p(); p(); print(open('/proc/self/maps').read())"
    root = Path(__file__).resolve().parents[2]
    shown = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert "/security/pam_" in shown.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="puts other services of PAM in the place of the system's")
@pytest.mark.parametrize(
    ("service", "found"),
    [
        pytest.param("auth required pam_permit.so\naccount required pam_permit.so\n", "Account", id="all is well"),
        pytest.param("auth required pam_deny.so\naccount required pam_permit.so\n", "Refused", id="it says no"),
        pytest.param("auth required pam_away.so\naccount required pam_permit.so\n", "Temporary", id="no such module"),
        pytest.param(
            "auth required pam_permit.so\naccount required pam_away.so\n", "Temporary", id="none for accounts"
        ),
        pytest.param("", "Temporary", id="no service"),
    ],
)
def test_what_pam_cannot_know_is_no_answer(tmp_path: Path, service: str, found: str) -> None:
    pytest.importorskip("pamela")
    if service:
        (tmp_path / "pop3").write_text(service)
    script = (
        "import pyqmail.login.accounts as a\n"
        "try: print(type(a.check_system(b'daemon', b'x')).__name__)\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    inside = 'mount --bind "$1" /etc/pam.d && exec "$2" -c "$3"'
    words = ["unshare", "-m", "sh", "-c", inside, "sh", str(tmp_path), sys.executable, script]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, found + "\n"), done.stderr
