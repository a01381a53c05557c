"""The scheduling policy and the name, in processes whose own nobody else needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pyqmail.system.process import schedule_as_batch
os.sched_setscheduler(0, int(sys.argv[1]), os.sched_param(0))
schedule_as_batch()
print(os.sched_getscheduler(0))
"""

NAMED = f"""#!{sys.executable} -I
import sys
sys.path.insert(0, {str(ROOT)!r})
from pyqmail.system.process import prepare_titles, set_title
prepare_titles()
print(open("/proc/self/comm").read(), end="")
set_title("another")
print(open("/proc/self/comm").read(), end="")
"""


@pytest.mark.parametrize(
    ("before", "after"), [(os.SCHED_OTHER, os.SCHED_BATCH), (os.SCHED_IDLE, os.SCHED_IDLE)], ids=["usual", "chosen"]
)
def test_only_the_usual_policy_is_changed(before: int, after: int) -> None:
    words = [sys.executable, "-c", PROGRAM, str(before), str(ROOT)]
    assert subprocess.run(words, capture_output=True, check=True).stdout == b"%d\n" % after


def test_who_makes_titles_ready_keeps_its_own_name(tmp_path: Path) -> None:
    program = tmp_path / "tcp-daemon"
    program.write_text(NAMED)
    program.chmod(0o755)
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"tcp-daemon\nanother\n"
