"""The map of the package holds without anybody watching: floors, quiet imports, no setuid bit."""

import ast
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pyqmail.admin.catalogue import PROGRAMS
from pyqmail.dependencies import DEBIAN_ONLY, read_lock

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pyqmail"
FLOORS = {
    1: ("system", "stream", "exits", "failure", "address", "options", "values", "launch", "build", "dependencies"),
    2: ("log", "formats", "mailbox", "envelope", "control"),
    3: ("protocol", "policy"),
    4: ("spool", "warm", "login", "state", "resolver"),
    5: ("intake", "tcp", "mailauth", "shadow"),
    6: ("send", "local", "remote", "incoming"),
    7: ("admin", "look"),
    8: ("programs",),
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))
# An arrow upwards, each with its reason.
ALLOWED: dict[tuple[str, str], str] = {}


def room_of(path: Path) -> str:
    """The module or directory of the map that ``path`` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms of the package that the module at ``path`` imports."""
    return {name.split(".")[1] for name in imported_names(path)}


def imported_names(path: Path) -> list[str]:
    """What of the package the module at ``path`` imports."""
    names = []
    module = ast.parse(path.read_text())
    for only_types in [
        node for node in ast.walk(module) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]:
        only_types.body = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            packages = node.module in ("pyqmail", "pyqmail.programs")
            names += [f"{node.module}.{alias.name}" for alias in node.names] if packages else [node.module]
    return [name for name in names if name.startswith("pyqmail.")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_floors_below_or_its_own(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert imported_rooms(path) == set()
        return
    assert room in FLOOR, f"{room} is not on the map"
    upwards = {other for other in imported_rooms(path) if FLOOR[other] > FLOOR[room] and (room, other) not in ALLOWED}
    assert upwards == set()


def test_rooms_of_one_floor_import_each_other_in_one_direction_only() -> None:
    arrows = {
        (room_of(path), other) for path in MODULES for other in imported_rooms(path) if room_of(path) != other
    } - set(ALLOWED)
    modules = {arrow for arrow in arrows if (arrow[1], arrow[0]) in arrows}
    assert modules == set()


def test_no_program_imports_a_program() -> None:
    arrows = {
        (path.stem, name.split(".")[2])
        for path in MODULES
        if room_of(path) == "programs"
        for name in imported_names(path)
        if name.startswith("pyqmail.programs.")
    }
    assert arrows == set()


@pytest.mark.contract("queue 12.4")
def test_no_file_of_the_checkout_and_no_installed_program_is_setuid() -> None:
    for path in [*MODULES, *(ROOT / "bin").iterdir()]:
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID), path
    assert not any(program.mode & 0o6000 for program in PROGRAMS.values())


def test_every_program_of_the_catalogue_has_a_launcher_and_a_module() -> None:
    for name, program in PROGRAMS.items():
        assert os.access(ROOT / "bin" / name, os.X_OK), name
        assert (ROOT / (program.module.replace(".", "/") + ".py")).is_file(), program.module


def test_importing_every_module_prints_nothing_and_opens_nothing() -> None:
    debian = "|".join(module for _, modules in DEBIAN_ONLY.values() for module in modules)  # not for this interpreter
    ours = [path for path in MODULES if not re.search(rf"^(?:import|from) (?:{debian})\b", path.read_text(), re.M)]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ours if path.stem != "__init__"]
    program = (
        "import ctypes, importlib, os, sys; sys.path.insert(0, sys.argv[1])\n"  # libffi 3.5 keeps its own file open
        "before = set(os.listdir('/proc/self/fd'))\n"
        "[importlib.import_module(name) for name in sys.argv[2:]]\n"
        "assert set(os.listdir('/proc/self/fd')) == before\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(ROOT), *names], capture_output=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_the_map_is_printed_from_the_imports() -> None:
    """Run it with -s to see it: each floor, its rooms, and what each of them imports."""
    arrows: dict[str, set[str]] = {}
    for path in MODULES:
        if room_of(path) != "__init__":
            arrows.setdefault(room_of(path), set()).update(imported_rooms(path) - {room_of(path)})
    for floor in sorted(FLOORS, reverse=True):
        for room in (room for room in FLOORS[floor] if room in arrows):
            below = sorted(arrows[room], key=lambda other: (-FLOOR[other], other))
            print(f"{floor}  {room:12} {' '.join(below)}")
    table = re.findall(r"^\| (\d) \| ([^|]+) \|", (PACKAGE / "ARCHITECTURE.md").read_text(), re.M)
    written = {name.strip().removesuffix("/"): int(floor) for floor, names in table for name in names.split(",")}
    assert written == {room: FLOOR[room] for room in arrows}


def test_the_hooks_are_those_of_the_lock() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    (ruff,) = (found for found in read_lock() if found.name == "ruff")
    assert set(re.findall(r"ruff==([0-9.]+)", text)) == {ruff.version}
