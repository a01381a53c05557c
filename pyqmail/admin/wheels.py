"""Wheels: which of them a Python can use, whether one is what the lock names, and how it is unpacked (PEP 425, 427).

Unpacking needs neither pip nor a network, and runs nothing of what is unpacked.
"""

import contextlib
import hashlib
import os
import platform
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyqmail.dependencies import PYTHONS, Requirement, normal

GLIBC = 36  # of glibc 2.36, Debian 12's: what is fetched runs on nothing older
CHUNK = 1 << 20


class WheelError(Exception):
    """The wheels cannot be used; the text is the line to print."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python, as far as wheels care."""

    version: tuple[int, int]
    machine: str

    def __str__(self) -> str:
        return f"Python {self.version[0]}.{self.version[1]} on {self.machine}"


def interpreter_of(python: str) -> Interpreter:
    """What ``python`` is. Raises WheelError when it does not run."""
    if os.path.realpath(python) == os.path.realpath(sys.executable):
        return Interpreter(sys.version_info[:2], platform.machine())
    program = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-ISc", program], capture_output=True, text=True, check=False)
        major, minor = done.stdout.split()
    except (OSError, ValueError) as error:
        raise WheelError(f"{python} does not run") from error
    return Interpreter((int(major), int(minor)), platform.machine())


def find_python(candidates: Sequence[str]) -> str:
    """The first of ``candidates`` that is a Python of a supported version. Raises WheelError."""
    for python in candidates:
        with contextlib.suppress(WheelError):
            if interpreter_of(python).version in PYTHONS:
                return python
    names = ", ".join("{}.{}".format(*version) for version in PYTHONS)
    raise WheelError(f"{' and '.join(candidates)}: none is a Python {names}; name one with --python")


def fits(file: str, interpreter: Interpreter) -> bool:
    """Whether that Python can use the wheel of this file name."""
    parts = file.removesuffix(".whl").split("-")
    pythons, abis, platforms = (set(part.split(".")) for part in parts[-3:])
    return any(_abi_fits(python, abis, interpreter.version) for python in pythons) and any(
        _platform_fits(name, interpreter.machine) for name in platforms
    )


def _abi_fits(python: str, abis: set[str], version: tuple[int, int]) -> bool:
    """Whether a tag such as cp311 with one of the ABIs serves this version."""
    if python == "py3":
        return "none" in abis
    match = re.fullmatch(r"cp3(\d+)", python)
    if match is None:
        return False
    if "abi3" in abis and int(match[1]) <= version[1]:
        return True
    return int(match[1]) == version[1] and bool(abis & {"none", f"cp3{version[1]}"})


def _platform_fits(name: str, machine: str) -> bool:
    """Whether a tag such as manylinux_2_17_x86_64 serves this machine."""
    if name in ("any", f"linux_{machine}", *(f"manylinux{year}_{machine}" for year in ("1", "2010", "2014"))):
        return True
    match = re.fullmatch(r"manylinux_2_(\d+)_(.*)", name)
    return match is not None and int(match[1]) <= GLIBC and match[2] == machine


def select(directory: Path, wanted: Iterable[Requirement], interpreter: Interpreter) -> list[Path]:
    """The wheel in ``directory`` of each requirement, each of them looked at whole.

    Raises WheelError when one is missing or is not what the lock names.
    """
    files = [path for path in sorted(directory.glob("*.whl")) if path.name.count("-") in (4, 5)]
    found = []
    for item in wanted:
        mine = [path for path in files if _identity(path) == (item.name, item.version)]
        usable = [path for path in mine if fits(path.name, interpreter)]
        if not usable:
            raise WheelError(f"{directory} has no wheel of {item.name} {item.version} for {interpreter}")
        good = [path for path in usable if digest(path) in item.hashes]
        if not good:
            raise WheelError(f"{usable[0]} is damaged or not what the lock names: wrong hash")
        found.append(good[0])
    return found


def _identity(path: Path) -> tuple[str, str]:
    """The distribution and version that a wheel's name gives."""
    name, version = path.name.split("-")[:2]
    return normal(name), version


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            made.update(chunk)
    return made.hexdigest()


def unpack(wheel: Path, target: Path) -> None:
    """Put the modules of ``wheel`` below ``target``. Raises WheelError and OSError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                place = _place(member)
                if place is not None:
                    path = target / place
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(member))
    except (zipfile.BadZipFile, ValueError) as error:
        raise WheelError(f"{wheel} cannot be unpacked: {error}") from error


def _place(member: zipfile.ZipInfo) -> str | None:
    """Where a member goes below the modules; None for what is no module, such as a script. Raises ValueError."""
    parts = member.filename.split("/")
    if member.is_dir():
        return None
    if parts[0] == "" or ".." in parts or stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{member.filename!r} is no place for a module")
    if parts[0].endswith(".data"):
        return "/".join(parts[2:]) if parts[1] in ("purelib", "platlib") and len(parts) > 2 else None
    return member.filename
