"""What qmail-start has in memory before its first fork, so that no child has a copy of its own."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOADED = """
import json, sys
sys.path[:0] = sys.argv[1:]
from pyqmail.send.start import Start
start = Start("/nonexistent", None, {b"PATH": sys.argv[1].encode() + b"/bin"})
start.load()
print(json.dumps(sorted(sys.modules)))
"""


def test_the_title_and_what_workers_run_are_loaded_once() -> None:
    command = [sys.executable, "-c", LOADED, str(ROOT), str(ROOT / ".deps")]
    loaded = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    assert "typing" not in loaded  # pyqmail.system.typed
    wanted = {"pyqmail.programs.qmail_lspawn", "pyqmail.programs.qmail_local", "pyqmail.programs.qmail_getpw"}
    assert wanted | {"pyqmail._titles"} <= set(loaded)
    assert "pyqmail.programs.qmail_remote" not in loaded
