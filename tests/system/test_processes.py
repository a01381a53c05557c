"""Families of processes, real ones."""

import os
import shutil
import subprocess

import pytest

from pyqmail.system import processes
from pyqmail.system.processes import descendants, kill_family
from tests.public_directory import public_directory
from tests.spool.queue_tree import ORDINARY_UID
from tests.waiting import wait_for


@pytest.mark.parametrize("listed", [True, False], ids=["by lists of children", "by a look at all"])
def test_a_family_dies_whole(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not listed:
        monkeypatch.setattr(os.path, "exists", lambda path: not path.endswith("/children"))
    words = ["sh", "-c", "(sh -c 'sleep 1000 & sleep 1001; :'; :) & sleep 1002; :"]
    other = subprocess.Popen(["sleep", "1003"])
    head = subprocess.Popen(words)
    try:
        asleep = [b"sleep\x001000", b"sleep\x001001", b"sleep\x001002"]
        wait_for(lambda: sorted(p.title for p in descendants(head.pid) if p.name == "sleep") == asleep, "the sleepers")
        family = descendants(head.pid)
        assert len(family) == 5
        kill_family(head.pid)
        assert head.wait() == -9 and descendants(head.pid) == []
        for process in family:
            wait_for(lambda process=process: processes.look(process.pid) is None, "its end")  # type: ignore[misc]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(os.getuid() != 0, reason="makes a setuid program")
def test_a_setuid_program_is_of_the_family_of_its_user() -> None:
    with public_directory() as place:
        program = place / "setuid-sleep"
        shutil.copy("/bin/sleep", program)
        program.chmod(0o4755)
        head = subprocess.Popen(["sh", "-c", f"{program} 1004; :"], user=ORDINARY_UID, group=ORDINARY_UID)
        wait_for(lambda: any(str(program).encode() in p.title for p in descendants(head.pid)), "it")
        (child,) = descendants(head.pid)
        assert os.stat(f"/proc/{child.pid}").st_uid == 0 and child.uid == ORDINARY_UID
        kill_family(head.pid)
        assert head.wait() == -9
        wait_for(lambda: processes.look(child.pid) is None, "its end")
