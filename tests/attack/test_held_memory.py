"""A process whose memory nobody can look at: no look at it lasts, and it can be ended like any other."""

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pyqmail.admin.running import running
from pyqmail.admin.supervision import build_lines
from pyqmail.system import processes
from pyqmail.warm.succession import supervisors
from tests.attack.stranger import CannotAttack, hold_memory, stranger
from tests.spool.queue_tree import ORDINARY_UID, act_as
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs the users of a real tree")
SOON_S = 3.0


def ends_soon(deed: Callable[[], object]) -> bool:
    """Whether ``deed``, in a process of its own, is done soon and raises nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            deed()
            code = 0
        finally:
            os._exit(code)
    handle = os.pidfd_open(child)
    try:
        done, _, _ = select.select([handle], [], [], SOON_S)
        if not done:
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1] == 0
    finally:
        os.close(handle)


DEEDS = {
    "qmail-start looks for its predecessors": lambda home, _: supervisors(home, home),
    "qmailctl looks for builds": lambda home, _: list(build_lines(home)),
    "qmail-setup looks for what runs": lambda home, _: running(home),
    "a look at its title": lambda _, pid: processes.look(pid).title,  # type: ignore[union-attr]
}


@pytest.mark.parametrize("deed", DEEDS)
def test_who_holds_his_memory_holds_up_nobody(fuse: tuple[Path, Path], tmp_path: Path, deed: str) -> None:
    try:
        with stranger(lambda: hold_memory(*fuse)) as pid:
            assert ends_soon(lambda: DEEDS[deed](str(tmp_path), pid))
    except CannotAttack:
        pytest.skip("no user may do that here")


def test_a_program_that_holds_its_memory_is_ended_with_its_family(fuse: tuple[Path, Path]) -> None:
    """By qmail-lspawn, whose only thread serves all users."""
    done, told = os.pipe()
    head = os.fork()
    if head == 0:
        act_as(ORDINARY_UID)()
        try:
            with stranger(lambda: hold_memory(*fuse)) as pid:
                os.write(told, b"%d" % pid)
                signal.pause()
        finally:
            os.write(told, b"0")
            os._exit(0)
    os.close(told)
    pid = int(os.read(done, 32))
    if pid == 0:
        os.waitpid(head, 0)
        pytest.skip("no user may do that here")
    try:
        assert ends_soon(lambda: processes.kill_family(head))
        wait_for(lambda: processes.look(pid) is None, "its end")
    finally:
        os.kill(head, signal.SIGKILL)
        os.killpg(pid, signal.SIGKILL) if processes.look(pid) else None
        os.waitpid(head, 0)
        os.close(done)
