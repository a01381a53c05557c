"""Fetching wheels with pip: never as root, only by the hashes of the lock, and with whatever pip can be had.

pip is that of the interpreter, else the wheel of it that Debian keeps for making environments, else one that apt
brings: installed by root, or only unpacked for a moment by anybody else. What was fetched is looked at again when it is
copied.
"""

import contextlib
import glob
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pyqmail.admin.wheels import GLIBC, Interpreter, WheelError, digest
from pyqmail.dependencies import Requirement
from pyqmail.system.progress import tell_while

PIP_PACKAGE = "python3-pip-whl"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
NOBODY = 65534
KEPT = re.compile(r"PIP_|SSL_CERT_|PATH$|LANG$|LC_|(https?|all|no)_proxy$", re.IGNORECASE)  # what pip may see


class FetchError(Exception):
    """Nothing can be fetched; the text is the line to print."""


def fetch(wanted: Sequence[Requirement], directory: Path, python: str, pythons: Sequence[Interpreter] = ()) -> None:
    """Put the wheels of ``wanted`` into ``directory``, each whole or not at all.

    They are those for ``python`` itself, or with ``pythons`` for each of these. Raises FetchError, WheelError, OSError.
    """
    with scratch_directory() as scratch:
        pip, environ = find_pip(python, scratch)
        for other in pythons or (None,):
            items = [item for item in wanted if other is None or item.wanted_by(other.version)]
            (scratch / "requirements").write_text("".join(f"{item.line()}\n" for item in items))
            options = ["download", "-q", "--no-input", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
            options += ["--no-cache-dir", "--disable-pip-version-check", "--retries", "2", "--no-color"]
            options += [*_platform_options(other), "-d", f"{scratch}/wheels", "-r", f"{scratch}/requirements"]
            done = tell_while(
                partial(unprivileged, [*pip, *options], scratch, environ),
                "fetching modules",
                len(items),
                lambda: len(os.listdir(scratch / "wheels")) if (scratch / "wheels").exists() else 0,
            )
            if done.returncode != 0:
                raise FetchError(_reason(done.stderr))
        directory.mkdir(parents=True, exist_ok=True)
        hashes = {known for item in wanted for known in item.hashes}
        for path in sorted((scratch / "wheels").iterdir()):
            take(path, directory, hashes)


def _platform_options(interpreter: Interpreter | None) -> Iterator[str]:
    """The options that make pip choose for another Python than its own."""
    if interpreter is not None:
        yield from ("--implementation", "cp", "--python-version", "{}.{}".format(*interpreter.version))
        names = ["manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{n}" for n in range(5, GLIBC + 1))]
        for name in names:
            yield from ("--platform", f"{name}_{interpreter.machine}")


def _reason(text: str) -> str:
    """pip's complaint as one line."""
    if "DO NOT MATCH THE HASHES" in text:
        found = re.search(r"^ +(\S+).*:\n +Expected sha256", text, re.M)
        return f"what the index has of {found[1] if found else 'a wheel'} is not what the lock names: wrong hash"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    full = [line for line in lines if "No space left" in line]
    return f"pip cannot fetch the dependencies (is there a network?): {(full or lines)[-1].removeprefix('ERROR: ')}"


def take(path: Path, directory: Path, hashes: set[str]) -> None:
    """Copy one fetched wheel, believing nothing about it, and put it in its place when it is right."""
    part = directory / f".{path.name}.part"
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        if digest(part) not in hashes:
            raise WheelError(f"{path.name} is not what the lock names: wrong hash")
        part.chmod(0o644)
        part.rename(directory / path.name)
    finally:
        part.unlink(missing_ok=True)


# Without privileges


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory of the account that fetches; it is removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="pyqmail-"))
    try:
        if os.geteuid() == 0:
            os.chown(path, *nobody())
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def nobody() -> tuple[int, int]:
    """The ids of the account that root becomes to fetch."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return NOBODY, NOBODY
    return entry.pw_uid, entry.pw_gid


def unprivileged(words: Sequence[str], scratch: Path, more: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command that fetches, as nobody if this is root, with ``scratch`` as its whole world."""
    environ = {name: value for name, value in os.environ.items() if KEPT.match(name)}
    environ |= {"HOME": str(scratch), "TMPDIR": str(scratch)} | more
    who = nobody() if os.geteuid() == 0 else None
    return subprocess.run(
        words, env=environ, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        user=who and who[0], group=who and who[1], extra_groups=who and [],
    )  # fmt: skip


# Which pip


def find_pip(python: str, scratch: Path) -> tuple[list[str], dict[str, str]]:
    """The words that run pip under ``python``, and what to add to the environment. Raises FetchError."""
    for words in _pips(python):
        if unprivileged([*words, "--version"], scratch, {}).returncode == 0:
            return words, {}
    if os.geteuid() == 0:
        install_pip()
        for words in _pips(python):
            if unprivileged([*words, "--version"], scratch, {}).returncode == 0:
                return words, {}
        raise FetchError(f"{python} cannot run the pip of Debian's {PIP_PACKAGE}")
    return _borrowed_pip(python, scratch)


def _pips(python: str, top: str = "") -> Iterator[list[str]]:
    """The ways to run a pip that is here: the interpreter's own, then the wheels kept for new environments."""
    if not top:
        yield [python, "-I", "-m", "pip"]
    places = [f"{top}/usr/share/python-wheels"]
    program = "import ensurepip; print(ensurepip.__path__[0])"
    done = subprocess.run([python, "-ISc", program], capture_output=True, text=True, check=False)
    places += [f"{done.stdout.strip()}/_bundled"] if done.returncode == 0 and not top else []
    for place in places:
        for wheel in sorted(glob.glob(f"{place}/pip-*.whl"), reverse=True):
            yield [python, "-I", f"{wheel}/pip"]


def install_pip() -> None:
    """As root: let apt install what fetches, after a line that says so. Raises FetchError."""
    os.write(1, f"installing {PIP_PACKAGE} by apt, because this Python has no pip\n".encode())
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    words = ["apt-get", "install", "-q", "-y", "--no-install-recommends", PIP_PACKAGE]
    for command in (words, ["apt-get", "update", "-q"], words):
        try:
            done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except FileNotFoundError:
            break
        if done.returncode == 0 and command is words:
            return
    raise FetchError(f"this Python has no pip, and apt cannot install it; run: apt-get install {PIP_PACKAGE}")


def _borrowed_pip(python: str, scratch: Path) -> tuple[list[str], dict[str, str]]:
    """A pip from Debian's package, only unpacked, so that it needs no privileges. Raises FetchError."""
    packages = [PIP_PACKAGE] if CERTIFICATES.exists() else [PIP_PACKAGE, "ca-certificates"]
    lists = scratch / "lists"
    lists.mkdir()
    private = ["apt-get", "-q", "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={scratch}"]
    private += ["-o", "Debug::NoLocking=1"]
    for words in (["apt-get", "-q"], private):
        if words is private:
            _quietly([*private, "update"], scratch)
        if _quietly([*words, "download", *packages], scratch):
            break
    for package in scratch.glob("*.deb"):
        _quietly(["dpkg-deb", "-x", str(package), str(scratch / "root")], scratch)
    more = _certificates(scratch)
    for words in _pips(python, str(scratch / "root")):
        if unprivileged([*words, "--version"], scratch, more).returncode == 0:
            return words, more
    raise FetchError(f"this Python has no pip; run: apt-get install {PIP_PACKAGE}")


def _quietly(words: Sequence[str], scratch: Path) -> bool:
    """Whether a command was there and succeeded."""
    try:
        return unprivileged(words, scratch, {}).returncode == 0
    except FileNotFoundError:
        return False


def _certificates(scratch: Path) -> dict[str, str]:
    """Where pip finds the certificates that were unpacked with it, where the system has none."""
    found = sorted((scratch / "root/usr/share/ca-certificates/mozilla").glob("*.crt"))
    if CERTIFICATES.exists() or not found:
        return {}
    (scratch / "certificates").write_bytes(b"".join(path.read_bytes() + b"\n" for path in found))
    return {"PIP_CERT": str(scratch / "certificates")}
