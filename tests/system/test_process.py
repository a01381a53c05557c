"""The scheduling policy, in processes whose policy nobody else needs."""

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


@pytest.mark.parametrize(
    ("before", "after"), [(os.SCHED_OTHER, os.SCHED_BATCH), (os.SCHED_IDLE, os.SCHED_IDLE)], ids=["usual", "chosen"]
)
def test_only_the_usual_policy_is_changed(before: int, after: int) -> None:
    words = [sys.executable, "-c", PROGRAM, str(before), str(ROOT)]
    assert subprocess.run(words, capture_output=True, check=True).stdout == b"%d\n" % after
