"""The wheel of this package: pip install gives qmail-setup, which installs a tree without a checkout."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.public_directory import public_directory

ROOT = Path(__file__).resolve().parents[2]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    """Run a command that must succeed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd="/", timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that everybody may enter, with an environment in which the wheel was installed by pip."""
    with public_directory() as base:
        everywhere = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")

        def ignored(folder: str, names: list[str]) -> set[str]:
            own = {"run", "tests", "build"} if Path(folder) == ROOT else set()  # a service has a file run, too
            return set(everywhere(folder, names)) | own & set(names)

        shutil.copytree(ROOT, base / "sources", ignore=ignored)
        pip = [sys.executable, "-I", "-m", "pip"]
        build = [
            "wheel",
            "-q",
            "--no-build-isolation",
            "--no-deps",
            "--no-index",
            "-w",
            base / "dist",
            base / "sources",
        ]
        run(*pip, *build)
        shutil.rmtree(base / "sources")
        run("/usr/bin/python3", "-m", "venv", "--without-pip", base / "venv")
        (wheel,) = (base / "dist").glob("pyqmail-0.2.0-py3-none-any.whl")
        run(*pip, "--python", base / "venv/bin/python", "install", "-q", "--no-deps", "--no-index", wheel)
        (base / "trees").mkdir()
        (base / "trees").chmod(0o777)
        yield base


def test_it_installs_the_tree_with_everything(place: Path) -> None:
    home, setup = place / "trees/tree", place / "venv/bin/qmail-setup"
    tree = [*NOBODY, setup, "--single-user", "--home", home]
    run(*tree, "--me", "mx.example.test", "--dependencies", ROOT / ".deps")
    assert run(*tree, "--check").stdout == ""
    shown = subprocess.run([home / "bin/qmail-showctl"], env={"QMAIL_HOME": str(home)}, capture_output=True, text=True)
    assert shown.returncode == 0 and "mx.example.test" in shown.stdout
    for source in (ROOT / "control-examples").rglob("*"):
        copy = home / "doc/control-examples" / source.relative_to(ROOT / "control-examples")
        if source.is_file():
            assert copy.read_bytes() == source.read_bytes()
            assert os.access(copy, os.X_OK) == os.access(source, os.X_OK), copy
    pages = {path.name for path in (ROOT / "pyqmail/man").iterdir()}
    assert {path.name for path in (home / "man").glob("man*/*")} == pages
    for name in ("README.md", "INSTALL.md", "CHANGELOG.md", "LICENSE", "ARCHITECTURE.md"):
        assert (home / "doc" / name).stat().st_size > 0


def test_its_modules_are_those_that_pip_installed_beside_it(place: Path) -> None:
    site = next((place / "venv/lib").glob("python3*/site-packages"))
    for path in (ROOT / ".deps").iterdir():
        if path.is_dir():
            shutil.copytree(path, site / path.name, dirs_exist_ok=True)
        else:
            shutil.copy(path, site)
    environ = os.environ | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    words = [*NOBODY, place / "venv/bin/qmail-setup", "--single-user", "--home", place / "trees/other"]
    done = subprocess.run([str(word) for word in words], env=environ, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
