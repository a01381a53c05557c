"""Puts the modules of the lock into a directory: from wheels, from where they are installed already, or fetched.

Debian's own packages are only linked to, so that apt's updates of them take effect.
"""

import base64
import csv
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from pyqmail.admin.fetching import fetch
from pyqmail.admin.wheels import interpreter_of, select, unpack
from pyqmail.dependencies import DEBIAN_ONLY, Requirement, chosen, normal, read_lock

DEBIAN = Path("/usr/lib/python3/dist-packages")
UNIMPORTED = ("pamela",)  # only looked for: importing it loads libpam, which a machine without accounts need not have


class ModulesMissing(Exception):
    """The modules cannot be had; the text is the line to print."""


def requirements(groups: Sequence[str], python: str) -> list[Requirement]:
    """What the lock names for these groups under ``python``. Raises LockError, WheelError and OSError."""
    return chosen(read_lock(), groups, interpreter_of(python).version)


def add_modules(
    target: Path,
    python: str,
    groups: Sequence[str],
    *,
    given: str | None = None,
    places: Sequence[Sequence[str]] = (),
    system: bool = False,
) -> None:
    """Fill the empty directory ``target``: from ``given`` alone, else from one of ``places``, else with pip.

    With ``system`` what Debian has is linked. Raises ModulesMissing, WheelError, FetchError, LockError and OSError.
    """
    wanted = requirements(groups, python)
    link_debian_only(target, groups)
    if system:
        wanted = [item for item in wanted if not link(target, item.module)]
    if given is not None:
        _add_given(target, python, wanted, Path(given))
    elif not any(_copied(target, python, wanted, place) for place in places):
        with tempfile.TemporaryDirectory(prefix="pyqmail-") as fetched:
            fetch(wanted, Path(fetched), python)
            add_wheels(target, Path(fetched), python, wanted)
    if reason := unusable(target, python, requirements(groups, python)):
        raise ModulesMissing(f"{python} cannot import what was installed: {reason}")


def _add_given(target: Path, python: str, wanted: Sequence[Requirement], directory: Path) -> None:
    """From a directory of wheels, or of installed modules. Raises ModulesMissing and WheelError."""
    if any(directory.glob("*.whl")):
        add_wheels(target, directory, python, wanted)
    elif missing := copy_modules([str(directory)], target, wanted):
        raise ModulesMissing(f"{directory} does not hold {missing} for {python}")


def add_wheels(target: Path, directory: Path, python: str, wanted: Sequence[Requirement]) -> None:
    """Unpack the wheels of a directory, after all of them were looked at. Raises WheelError and OSError."""
    for wheel in select(directory, wanted, interpreter_of(python)):
        unpack(wheel, target)


def _copied(target: Path, python: str, wanted: Sequence[Requirement], place: Sequence[str]) -> bool:
    """Whether everything could be copied from one place; nothing more is in ``target`` otherwise."""
    before = set(target.iterdir())
    if not copy_modules(place, target, wanted) and unusable(target, python, wanted) is None:
        return True
    for child in set(target.iterdir()) - before:
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    return False


def copy_modules(place: Sequence[str], target: Path, wanted: Sequence[Requirement]) -> str | None:
    """Copy the modules found on the path ``place``; else which is not there in its version, or has no list of files."""
    found = {normal(dist.metadata["Name"]): dist for dist in distributions(path=list(place))}
    for item in wanted:
        dist = found.get(item.name)
        if dist is None or dist.read_text("RECORD") is None or dist.version != item.version:
            return f"{item.name} {item.version}"
        for source, inside, known in files_of(dist):
            data = source.read_bytes() if source.is_file() else b""
            if known is not None and known != base64.urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode():
                return f"{item.name} {item.version} undamaged ({inside})"
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            (target / inside).write_bytes(data)
    return None


def files_of(dist: Distribution) -> Iterator[tuple[Path, str, str | None]]:
    """Each file of ``dist`` among the modules: where it is, its path below them, and its SHA-256 if that is listed.

    RECORD itself is read: from Python 3.12 on ``dist.files`` is silent about a listed file that is not there.
    """
    for row in filter(None, csv.reader((dist.read_text("RECORD") or "").splitlines())):
        name, value = (*row, "")[:2]
        source, inside = Path(str(dist.locate_file(name))), PurePosixPath(name)
        kind, _, digest = value.partition("=")
        outside = ".." in inside.parts or inside.parts[0] == "bin" or inside.parts[0].endswith(".data")
        if not outside and "__pycache__" not in inside.parts and (value or source.is_file()):
            yield source, name, digest if kind == "sha256" else None


def link(target: Path, module: str) -> bool:
    """Link a module of Debian's, if it is there: a directory, a file, or one file of machine code for each Python."""
    found = _of_debian(module)
    for path in found:
        (target / path.name).symlink_to(path)
    return bool(found)


def _of_debian(module: str) -> list[Path]:
    pattern = re.compile(rf"{re.escape(module)}(\.py|\.cpython-.*\.so|\.abi3\.so)?")
    return [path for path in DEBIAN.glob(f"{module}*") if pattern.fullmatch(path.name)]


def link_debian_only(target: Path, groups: Sequence[str]) -> None:
    """Link what has no wheel; where it is not installed, a line says what it is for."""
    for group in set(groups) & set(DEBIAN_ONLY):
        package, modules = DEBIAN_ONLY[group]
        if not all([link(target, module) for module in modules]):
            os.write(1, f"{group}: without {package} until it is installed by apt and qmail-setup run again\n".encode())


def debian_only(groups: Sequence[str]) -> list[str]:
    """What has no wheel and is installed: with one more of them what is linked is another directory."""
    wanted = [DEBIAN_ONLY[group] for group in sorted(set(groups) & set(DEBIAN_ONLY))]
    return [package for package, modules in wanted if all(_of_debian(module) for module in modules)]


def unusable(target: Path, python: str, wanted: Sequence[Requirement]) -> str | None:
    """Why ``python`` cannot import everything from ``target`` alone; None when it can."""
    names = [item.module for item in wanted if item.module not in UNIMPORTED]
    program = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        f"from importlib.util import find_spec\n"
        f"for name in {UNIMPORTED!r}: find_spec(name).name\n"
    )
    done = subprocess.run([python, "-ISBc", program], capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else None
