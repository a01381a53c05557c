"""The installed library: HOME/lib/pyqmail-BUILD, this package and what it depends on, compiled ahead.

A library is made beside its place and renamed into it whole. A changed source gives a new BUILD and so a new directory:
processes that run keep the files they started from, and a half-finished upgrade is never visible.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyqmail import build
from pyqmail.admin import modules
from pyqmail.admin.bundle import write_bundles
from pyqmail.dependencies import LOCK

# Every compiled module is read back: on a full disk some Pythons leave half a one, and it would be believed for ever.
READ_BACK = """
import marshal, pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob("*.pyc"): marshal.loads(path.read_bytes()[16:])
"""


class PackageError(Exception):
    """The library cannot be made; the text says why and what to do."""


def package_directory() -> Path:
    """The directory of the package that is running."""
    return Path(build.__file__).resolve().parent


def sources() -> list[Path]:
    """The package's own modules and the lock, in a fixed order."""
    top = package_directory()
    found = [
        path for path in top.rglob("*.py") if "__pycache__" not in path.parts and top / "share" not in path.parents
    ]
    return sorted([*found, top / LOCK])


def build_id(python: str, home: str, choice: Sequence[str]) -> str:
    """What names this version: a hash of the sources, the interpreter, the home written into them, and the choice."""
    digest = hashlib.sha256("\0".join([os.path.realpath(python), home, *choice, ""]).encode())
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


@contextlib.contextmanager
def only_one(lib: Path) -> Iterator[None]:
    """One installation at a time below ``lib``; what one that was killed left behind goes. Raises PackageError."""
    fd = os.open(lib, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PackageError(f"another installation is at work in {lib}: run this again when it has ended") from error
        for path in lib.glob(".new-*"):
            shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        os.close(fd)


def make_library(lib: Path, name: str, *, home: str, python: str, groups: Sequence[str], system: bool,
                 given: str | None) -> bool:  # fmt: skip
    """Make ``lib/name`` unless it is there; say whether it was made.

    Raises PackageError, ModulesMissing, WheelError, FetchError, LockError and OSError.
    """
    final = lib / name
    if (final / "pyqmail" / "build.py").exists():
        return False
    with tempfile.TemporaryDirectory(prefix=".new-", dir=lib) as staged_name:
        staged = Path(staged_name) / name
        staged.mkdir()
        places = [[str(package_directory().parent / ".deps")]]
        places += [[str(path)] for path in sorted(lib.glob("pyqmail-*"), reverse=True)] + [list(sys.path)]
        modules.add_modules(staged, python, groups, given=given, places=places, system=system)
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
    """Byte-compile ``staged`` for ``python`` and bundle; the results are believed without a look at the sources."""
    command = [python, "-IS", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*command, "-s", str(staged), "-p", final, str(staged)], check=False, stdout=subprocess.DEVNULL)
    done = subprocess.run([python, "-ISBc", READ_BACK, str(staged)], check=False, capture_output=True)
    if done.returncode != 0 or not write_bundles(staged, python):
        raise PackageError(f"the modules cannot be compiled in {staged.parent.parent}: is the disk full?")


def open_to_all(top: Path) -> None:
    """Every qmail user may read ``top``, and nobody but its owner may write there; what is linked is not ours."""
    for folder, _, names in os.walk(top):
        os.chmod(folder, 0o755)
        for name in names:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o644)


def remove_old(lib: Path, current: str) -> None:
    """Keep the current library and the latest one before it, which processes may still run from."""
    old = [path for path in lib.glob("pyqmail-*") if path.name != current]
    for path in sorted(old, key=lambda path: path.stat().st_mtime)[:-1]:
        shutil.rmtree(path, ignore_errors=True)
