"""The installed library: HOME/lib/pyqmail-BUILD, this package and what it depends on, compiled ahead.

A library is made beside its place and renamed into it whole. A changed source gives a new BUILD and so a new directory:
processes that run keep the files they started from, and a half-finished upgrade is never visible.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from pyqmail import build

DEPENDENCIES = ("dnspython", "python-daemon", "pure-cdb", "setproctitle", "pamela")
# pamela is only looked for: importing it loads libpam, which a machine without system accounts need not have
IMPORTS = "import dns.resolver, daemon, cdblib, setproctitle, importlib.util; importlib.util.find_spec('pamela').name"


class PackageTrouble(Exception):
    """The library cannot be made; the text says why and what to do."""


def package_directory() -> Path:
    """The directory of the package that is running."""
    return Path(build.__file__).resolve().parent


def sources() -> list[Path]:
    """The package's own modules, in a fixed order."""
    return sorted(path for path in package_directory().rglob("*.py") if "__pycache__" not in path.parts)


def build_id(python: str, home: str) -> str:
    """What names this version: a hash of the sources, of the interpreter and of the home written into them."""
    digest = hashlib.sha256(f"{os.path.realpath(python)}\0{home}\0".encode())
    for path in sources():
        digest.update(str(path.relative_to(package_directory())).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def build_text(home: str, identity: str) -> str:
    """The module build.py of an installed copy."""
    return (
        '"""Facts of this copy of the package, written by qmail-setup."""\n\n'
        f"HOME = {home!r}  # used when the environment has no QMAIL_HOME\n"
        f"BUILD_ID = {identity!r}\n"
    )


def make_library(lib: Path, name: str, *, home: str, python: str, given: str | None) -> bool:
    """Make ``lib/name`` unless it is there; say whether it was made. Raises PackageTrouble and OSError."""
    final = lib / name
    if (final / "pyqmail" / "build.py").exists():
        return False
    with tempfile.TemporaryDirectory(prefix=".new-", dir=lib) as staged_name:
        staged = Path(staged_name) / name
        staged.mkdir()
        add_dependencies(staged, python, given, lib)
        for path in sources():
            target = staged / "pyqmail" / path.relative_to(package_directory())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (staged / "pyqmail" / "build.py").write_text(build_text(home, name.partition("-")[2]))
        compile_ahead(staged, python, f"{home}/lib/{name}")
        open_to_all(staged)
        staged.rename(final)
    return True


def compile_ahead(staged: Path, python: str, final: str) -> None:
    """Byte-compile ``staged`` for ``python``; the results are believed without a look at the sources."""
    command = [python, "-IS", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*command, "-s", str(staged), "-p", final, str(staged)], check=False, stdout=subprocess.DEVNULL)


def open_to_all(top: Path) -> None:
    """Every qmail user may read ``top``, and nobody but its owner may write there."""
    for folder, _, names in os.walk(top):
        os.chmod(folder, 0o755)
        for name in names:
            os.chmod(os.path.join(folder, name), 0o644)


def remove_old(lib: Path, current: str) -> None:
    """Keep the current library and the latest one before it, which processes may still run from."""
    old = [path for path in lib.glob("pyqmail-*") if path.name != current]
    for path in sorted(old, key=lambda path: path.stat().st_mtime)[:-1]:
        shutil.rmtree(path, ignore_errors=True)


# Dependencies


def add_dependencies(target: Path, python: str, given: str | None, lib: Path) -> None:
    """Put the dependencies into ``target``: copied from where they are installed, else by pip."""
    places = [[given]] if given else [[str(package_directory().parent / ".deps")]]
    if not given:
        places += [[str(path)] for path in sorted(lib.glob("pyqmail-*"), reverse=True)] + [list(sys.path)]
    for place in places:
        if copy_dependencies(place, target) and importable(target, python):
            return
        for child in target.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    if given:
        raise PackageTrouble(f"{given} does not hold all of {', '.join(DEPENDENCIES)} for {python}")
    pip_install(target, python)
    if not importable(target, python):
        raise PackageTrouble(f"{python} cannot import what pip installed")


def copy_dependencies(place: list[str], target: Path) -> bool:
    """Copy every dependency found on the path ``place``; False when one is not there, or has no list of its files."""
    found = {normal(dist.metadata["Name"]): dist for dist in distributions(path=place)}
    wanted = [normal(name) for name in DEPENDENCIES]
    done: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        dist = found.get(name)
        if dist is None or dist.files is None:
            return False
        wanted += required_by(dist)
        for source, inside in files_of(dist):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / inside)
    return True


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required_by(dist: Distribution) -> Iterator[str]:
    """The distributions that ``dist`` always requires."""
    for requirement in dist.requires or ():
        spec, _, condition = requirement.partition(";")
        match = re.match(r"[A-Za-z0-9._-]+", spec.strip())
        if match and not condition:
            yield normal(match.group())


def files_of(dist: Distribution) -> Iterator[tuple[Path, str]]:
    """Each file of ``dist`` that lies among the modules: where it is, and its path below them."""
    for entry in dist.files or ():
        source = Path(str(dist.locate_file(entry)))
        if (
            ".." not in entry.parts
            and entry.parts[0] != "bin"
            and "__pycache__" not in entry.parts
            and source.is_file()
        ):
            yield source, str(entry)


def importable(target: Path, python: str) -> bool:
    """Whether ``python`` can import every dependency from ``target`` alone."""
    program = f"import sys; sys.path.insert(0, {str(target)!r}); {IMPORTS}"
    return subprocess.run([python, "-ISBc", program], capture_output=True, check=False).returncode == 0


def pip_install(target: Path, python: str) -> None:
    """Install the dependencies into ``target`` with pip, that of ``python`` or one from a private environment."""
    options = ["install", "-q", "--disable-pip-version-check", "--no-compile", "--target", str(target), *DEPENDENCIES]
    with tempfile.TemporaryDirectory() as scratch:
        pip = [python, "-m", "pip"]
        if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode != 0:
            made = subprocess.run([python, "-m", "venv", scratch], capture_output=True, check=False)
            if made.returncode != 0:
                raise PackageTrouble("neither pip nor ensurepip is here; run: apt-get install python3-venv")
            pip = [f"{scratch}/bin/python", "-m", "pip"]
        result = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no reason given"]
        raise PackageTrouble(f"pip cannot install the dependencies: {lines[-1]}")
