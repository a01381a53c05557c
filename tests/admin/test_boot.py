"""The boot scripts and rc: what each hands to qmail-start, and in which environment."""

import os
import subprocess
from pathlib import Path

import pytest

from pyqmail.admin.tree import boot_scripts, rc_script, start_script

FAKE = '#!/bin/sh\n{ env; printf \'%s\\0\' "$@"; } >"$(dirname "$0")/../seen"\n'
MAIL = '-d "$USER"'
SCRIPTS = {
    "home": "./Mailbox",
    "proc": "|preline procmail",
    "binm1": f'|preline -f /usr/libexec/mail.local -r "${{SENDER:-MAILER-DAEMON}}" {MAIL}',
    "binm2": f'|preline -f /bin/mail -r "${{SENDER:-MAILER-DAEMON}}" {MAIL}',
    "binm3": f'|preline -f /bin/mail -f "${{SENDER:-MAILER-DAEMON}}" {MAIL}',
}
ROWS = [f"control 6.{row}" for row in range(1, 7)]


def run(home: Path, script: bytes) -> tuple[list[str], list[str]]:
    """What qmail-start sees when ``script`` runs: its environment's names, and its arguments."""
    (home / "bin").mkdir(parents=True, exist_ok=True)
    (home / "bin" / "qmail-start").write_text(FAKE)
    (home / "bin" / "qmail-start").chmod(0o755)
    (home / "script").write_bytes(script)
    subprocess.run(["sh", home / "script"], check=True, env={**os.environ, "LEAKED": "x"}, timeout=60)
    environ, _, arguments = (home / "seen").read_text().rpartition("\nPWD=")
    names = [line.partition("=")[0] for line in environ.splitlines()]
    return names, arguments.partition("\n")[2].split("\0")[:-1]


@pytest.mark.contract(*ROWS)
@pytest.mark.parametrize("name", [*SCRIPTS, *(f"{name}+df" for name in SCRIPTS)])
def test_a_boot_script_hands_over_its_instructions_and_the_logger(tmp_path: Path, name: str) -> None:
    wanted = SCRIPTS[name.removesuffix("+df")]
    if name.endswith("+df"):
        wanted = f"|dot-forward .forward\n{wanted}"
    home = tmp_path / "with space"
    names, arguments = run(home, start_script(str(home), boot_scripts()[name]))
    assert arguments == [wanted, "splogger", "qmail"]
    assert "PATH" in names and "LEAKED" not in names and "HOME" not in names


def test_rc_takes_control_defaultdelivery(tmp_path: Path) -> None:
    assert run(tmp_path, rc_script(str(tmp_path)))[1] == ["./Maildir/"]
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "defaultdelivery").write_text("|dot-forward .forward\n./Mailbox\n")
    names, arguments = run(tmp_path, rc_script(str(tmp_path)))
    assert arguments == ["|dot-forward .forward\n./Mailbox"]
    assert "LEAKED" not in names
