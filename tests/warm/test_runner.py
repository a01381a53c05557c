"""A program served from memory: when its modules are loaded, and what changes that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyqmail import build
from pyqmail.system.loop import Loop
from pyqmail.warm.runner import Runner, replaceable_build

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pyqmail.system.loop import Loop
from pyqmail.warm.runner import Runner

bin, module = sys.argv[1], "pyqmail.programs.qmail_remote"
exits = {"setup_exit": 111, "descriptor_exit": 111, "exec_exit": 111}
runner = Runner(Loop(), lambda: bin, module, {}, directory="/", limit=1, **exits)
print(module in sys.modules, "dns" in sys.modules)
print(runner.warm, module in sys.modules)
"""


def run(program: str) -> list[str]:
    """What PROGRAM says of the launcher ``program``."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.check_output([sys.executable, "-c", PROGRAM, program], env=environ, text=True).splitlines()


def test_modules_are_loaded_for_the_first_job() -> None:
    assert run(str(ROOT / "bin" / "qmail-remote")) == ["False False", "True True"]


def test_of_a_foreign_program_nothing_is_loaded(tmp_path: Path) -> None:
    foreign = tmp_path / "qmail-remote"
    foreign.write_text("#!/bin/sh\nexit 0\n")
    foreign.chmod(0o755)
    assert run(str(foreign)) == ["False False", "False False"]


@pytest.mark.parametrize(
    ("directory", "identity", "looked_at"),
    [
        pytest.param("pyqmail-0123456789abcdef", "0123456789abcdef", False, id="an installed copy"),
        pytest.param("pyqmail-0123456789abcdef", "checkout", True, id="a checkout with such a name"),
        pytest.param("site-packages", "0123456789abcdef", True, id="a copy elsewhere"),
    ],
)
def test_a_build_is_looked_at_where_another_may_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: str, identity: str, looked_at: bool
) -> None:
    file = tmp_path / directory / "pyqmail" / "build.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(build, "__file__", str(file))
    monkeypatch.setattr(build, "BUILD_ID", identity)
    assert replaceable_build() == (str(file) if looked_at else None)
    loop, program = Loop(), str(ROOT / "bin" / "qmail-local")
    exits = {"setup_exit": 111, "descriptor_exit": 111, "exec_exit": 111}
    runner = Runner(loop, lambda: program, "pyqmail.programs.qmail_local", {}, directory="/", limit=1, **exits)
    assert runner.warm
    file.write_text("another")
    assert runner.warm is not looked_at
    loop.close()
