"""What tcpserver has in memory for qmail-smtpd before it forks: a worker imports nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREPARED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pyqmail.incoming.in_memory import checking_server
checking_server(lambda argv, environ: 0, {{b"QMAIL_HOME": sys.argv[1].encode()}})
print("pyqmail.log.json_lines" in sys.modules)
"""


@pytest.mark.parametrize("named", [False, True])
def test_json_is_in_memory_where_a_form_of_the_log_is_named(tmp_path: Path, *, named: bool) -> None:
    (tmp_path / "control").mkdir()
    if named:
        (tmp_path / "control/logformat").write_text("json\n")
    done = subprocess.run([sys.executable, "-c", PREPARED, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(named), done.stderr
