"""Launchers: an escape is the crash code, the environment stays the caller's, and only our own are recognised."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

from pyqmail.admin.catalogue import CHECKOUT, PROGRAMS, PYTHON
from pyqmail.launch import identify, launcher_text

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_each_launcher_is_the_text_of_the_catalogue(name: str) -> None:
    program = PROGRAMS[name]
    assert (ROOT / "bin" / name).read_text() == launcher_text(program.module, program.crash_exit, PYTHON, None)
    assert identify(str(ROOT / "bin" / name)) == program.module


def test_the_setup_launcher_is_not_a_program_to_serve_warm() -> None:
    for name, program in CHECKOUT.items():
        assert (ROOT / "bin" / name).read_text() == launcher_text(program.module, program.crash_exit, PYTHON, None)
    assert identify(str(ROOT / "bin" / "qmail-setup")) is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("#!/bin/sh\nexec qmail-send\n", id="a shell wrapper"),
        pytest.param(launcher_text("pyqmail.programs.qmail_send", 111, PYTHON, "/elsewhere"), id="another copy"),
        pytest.param("", id="an empty file"),
    ],
)
def test_a_stranger_is_not_recognised(tmp_path: Path, text: str) -> None:
    path = tmp_path / "qmail-send"
    path.write_text(text)
    assert identify(str(path)) is None


def launcher(tmp_path: Path, body: str, crash_exit: int = 111) -> Path:
    package = tmp_path / "probe"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "program.py").write_text(body)
    path = tmp_path / "program"
    text = launcher_text("probe.program", crash_exit, PYTHON, str(ROOT))
    path.write_text(text.replace("sys.path.insert(0,", f"sys.path.insert(0, {str(tmp_path)!r}); sys.path.insert(0,"))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("def main(argv, environ): raise SystemExit(1)", id="SystemExit"),
        pytest.param("def main(argv, environ): return 1 / 0", id="exception"),
        pytest.param("import nowhere", id="failed import"),
        pytest.param("def main(argv, environ): return 'x'", id="a code that is no number"),
        pytest.param("syntax error", id="syntax error"),
    ],
)
def test_an_escape_is_the_crash_code(tmp_path: Path, body: str) -> None:
    done = subprocess.run([launcher(tmp_path, body)], capture_output=True, timeout=20)
    assert done.returncode == 111


def test_a_broken_package_is_the_crash_code(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_text(launcher_text("pyqmail.programs.qmail_send", 111, PYTHON, str(tmp_path)))
    path.chmod(0o755)
    assert subprocess.run([path], capture_output=True, timeout=20).returncode == 111


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="bare"),
        pytest.param({"LC_CTYPE": "C"}, id="LC_CTYPE=C"),
        pytest.param({"LC_CTYPE": "C.UTF-8", "A": "b"}, id="set by the caller"),
        pytest.param({"LANG": "C"}, id="LANG=C"),
    ],
)
def test_the_environment_is_the_callers(tmp_path: Path, environ: dict[str, str]) -> None:
    body = "import os\ndef main(argv, environ):\n    return os.write(1, repr(sorted(environ.items())).encode()) * 0\n"
    done = subprocess.run([launcher(tmp_path, body)], capture_output=True, timeout=20, env=environ)
    assert done.returncode == 0
    assert ast.literal_eval(done.stdout.decode()) == sorted(
        (os.fsencode(k), os.fsencode(v)) for k, v in environ.items()
    )


def test_a_program_with_dataclasses_does_without_inspect_until_it_uses_it(tmp_path: Path) -> None:
    body = """
import sys
from dataclasses import dataclass, fields

@dataclass(frozen=True, slots=True)
class Said:
    "Its text."
    number: int
    text: str = "x"

def main(argv, environ):
    assert [field.name for field in fields(Said)] == ["number", "text"] and Said(1) == Said(1, "x")
    before = "dis" in sys.modules
    import inspect
    @dataclass
    class Silent:  # without a text, which is made of its signature then
        number: int
    assert inspect is not sys.modules["inspect"]
    from inspect import isfunction
    assert isfunction(main) and inspect.isclass(Silent) and inspect.unwrap(main) is main
    assert list(inspect.signature(main).parameters) == ["argv", "environ"]
    assert inspect.get_annotations(Silent) == {"number": int} and "number: int" in Silent.__doc__
    print(before, "dis" in sys.modules, flush=True)
    return 0
"""
    done = subprocess.run([launcher(tmp_path, body)], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout, done.returncode) == ("", "False True\n", 0)
