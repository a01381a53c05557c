"""Families of processes, real ones."""

import os
import subprocess

import pytest

from pyqmail.system import processes
from pyqmail.system.processes import descendants, kill_family
from tests.waiting import wait_for


@pytest.mark.parametrize("listed", [True, False], ids=["by lists of children", "by a look at all"])
def test_a_family_dies_whole(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not listed:
        monkeypatch.setattr(os.path, "exists", lambda path: not path.endswith("/children"))
    words = ["sh", "-c", "(sh -c 'sleep 1000 & sleep 1001; :'; :) & sleep 1002; :"]
    other = subprocess.Popen(["sleep", "1003"])
    head = subprocess.Popen(words)
    try:
        wait_for(lambda: len(descendants(head.pid)) == 5, "the whole family")
        family = descendants(head.pid)
        names = sorted(process.title.replace(b"\0", b" ") for process in family if process.name == "sleep")
        assert names == [b"sleep 1000", b"sleep 1001", b"sleep 1002"]
        kill_family(head.pid)
        assert head.wait() == -9 and descendants(head.pid) == []
        for process in family:
            wait_for(lambda process=process: processes.look(process.pid) is None, "its end")  # type: ignore[misc]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
