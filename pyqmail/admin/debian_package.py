"""Builds the Debian package, one file for all supported releases: qmail-setup --deb (deb(5), Debian Policy).

The package holds this checkout and the wheels that its lock names, for the Python of each release. Its postinst lays
out the tree with them as qmail-setup does from a checkout, so that nothing is installed in two ways. What belongs to
packaging alone lies in control-examples/debian, with words between @ that are filled in here.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from pathlib import Path

from pyqmail.admin import package
from pyqmail.admin.removal import KEPT
from pyqmail.policy.accounts import GROUPS, OWN_ROLES, ROLES

SHARE = "usr/share/pyqmail"
CHECKOUT = ("bin/qmail-setup", "bin/config", "bin/config-fast", "README.md", "INSTALL.md", "CHANGELOG.md", "LICENSE")
SCRIPTS = ("postinst", "prerm", "postrm")
PLACES = {  # of control-examples/debian, and the mode
    "setup": ("usr/sbin/qmail-setup", 0o755),
    "run": (f"{SHARE}/bin/run", 0o755),
    "copyright": ("usr/share/doc/pyqmail/copyright", 0o644),
    "README.Debian": ("usr/share/doc/pyqmail/README.Debian", 0o644),
}
LINKS = {
    "usr/sbin/sendmail": "/var/qmail/bin/sendmail",
    "usr/lib/sendmail": "../sbin/sendmail",
    "usr/bin/mailq": "/var/qmail/bin/mailq",
    "usr/bin/newaliases": "/var/qmail/bin/newaliases",
    "usr/share/doc/pyqmail/examples": "../../pyqmail/control-examples",
}
COMMANDS = (
    "qmailctl", "qmail-showctl", "qmail-q", "qmail-qread", "qmail-qstat", "qmail-explain", "qmail-log", "qmail-report",
    "qmail-top",
)  # fmt: skip
PAGES = ("qmail*", "sendmail.8", "mailq.1", "newaliases.1")  # the others are in packages that may lie beside this one


class DebError(Exception):
    """The package cannot be built; the text is the line to print."""


def build(out: Path, wheels: Sequence[Path], too_new: tuple[int, int]) -> Path:
    """Write the package to ``out``, a file or a directory, and return its path. Raises DebError and OSError.

    ``wheels`` go into it; ``too_new`` is the first Python that they do not serve.
    """
    checkout = package.package_directory().parent
    sources = checkout / "control-examples" / "debian"
    if not sources.is_dir():
        raise DebError(f"{sources} is not here: the package is built from a checkout")
    words = {
        "VERSION": project_version(checkout),
        "ARCHITECTURE": architecture(wheels),
        "PYTHON_TOO_NEW": "{}.{}~".format(*too_new),
        "DATE": formatdate(stamp(checkout)),
        "KEPT": " ".join(KEPT),
        "USERS": " ".join(role.decode() for role in (*ROLES, *OWN_ROLES.values()) if role != b"root"),
        "GROUPS": " ".join(group.decode() for group in GROUPS),
        "LICENSE": indented((checkout / "LICENSE").read_text()),
    }
    name = f"pyqmail_{words['VERSION']}_{words['ARCHITECTURE']}.deb"
    final = out / name if out.is_dir() else out
    with tempfile.TemporaryDirectory(prefix=".deb-", dir=final.parent) as scratch:
        root = Path(scratch) / "root"
        lay_out(root, checkout, wheels)
        for source, (place, mode) in PLACES.items():
            write(root / place, filled(sources / source, words), mode)
        write(root / "usr/share/doc/pyqmail/changelog.gz", packed(filled(sources / "changelog", words)), 0o644)
        write_control(root, sources, words)
        run_dpkg_deb(root, Path(scratch) / name, stamp(checkout))
        (Path(scratch) / name).chmod(0o644)
        (Path(scratch) / name).replace(final)
    return final


def project_version(checkout: Path) -> str:
    """The version of pyproject.toml. Raises DebError."""
    match = re.search(r'^version = "([0-9][\w.+~-]*)"', (checkout / "pyproject.toml").read_text(), re.M)
    if match is None:
        raise DebError("pyproject.toml has no version")
    return match.group(1)


def architecture(wheels: Sequence[Path]) -> str:
    """``all``, unless a wheel has something compiled in it. Raises DebError."""
    if all(path.name.endswith("-any.whl") for path in wheels):
        return "all"
    return run_dpkg(["dpkg", "--print-architecture"]).strip()


def stamp(checkout: Path) -> int:
    """The time that files of the package have: $SOURCE_DATE_EPOCH, else that of the newest source."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given.isdigit():
        return int(given)
    return int(max(path.stat().st_mtime for path in (*package.sources(), checkout / "CHANGELOG.md")))


def indented(text: str) -> str:
    """``text`` as a field of several lines."""
    return "\n".join(f" {line}" if line.strip() else " ." for line in text.strip().splitlines())


def filled(path: Path, words: Mapping[str, str]) -> bytes:
    """A file with the words between @ replaced. Raises DebError for one that is not known."""
    text = path.read_text()
    if unknown := set(re.findall(r"@([A-Z_]+)@", text)) - {*words, "SIZE"}:
        raise DebError(f"{path} has @{unknown.pop()}@, which nothing is known about")
    return re.sub(r"@([A-Z_]+)@", lambda match: words.get(match.group(1), match.group()), text).encode()


def packed(data: bytes) -> bytes:
    """``data`` as gzip -9n does it."""
    return gzip.compress(data, 9, mtime=0)


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def lay_out(root: Path, checkout: Path, wheels: Sequence[Path]) -> None:
    """What the package has of the checkout, the wheels, units, pages and links."""
    share, skipped = root / SHARE, shutil.ignore_patterns("__pycache__", "debian", "container")
    for name in ("pyqmail", "control-examples"):
        shutil.copytree(checkout / name, share / name, ignore=skipped)
    for name in CHECKOUT:
        write(share / name, (checkout / name).read_bytes(), 0o755 if name.startswith("bin/") else 0o644)
    for path in wheels:
        write(share / "wheels" / path.name, path.read_bytes(), 0o644)
    for path in sorted((checkout / "control-examples/systemd").iterdir()):
        write(root / "usr/lib/systemd/system" / path.name, path.read_bytes(), 0o644)
    for page in sorted({page for form in PAGES for page in (checkout / "pyqmail/man").glob(form)}):
        write(root / f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz", packed(page.read_bytes()), 0o644)
    for place, target in (LINKS | {f"usr/sbin/{name}": f"/var/qmail/bin/{name}" for name in COMMANDS}).items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).symlink_to(target)
    for folder, _, names in os.walk(root):  # the modes of a checkout are those of somebody's umask
        os.chmod(folder, 0o755)
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def write_control(root: Path, sources: Path, words: Mapping[str, str]) -> None:
    """The control area: fields, scripts, triggers, checksums."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum((path.stat().st_size + 1023) // 1024 for path in files)
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)
    control = root / "DEBIAN"
    write(control / "control", filled(sources / "control", words).replace(b"@SIZE@", b"%d" % size), 0o644)
    write(control / "md5sums", sums.encode(), 0o644)
    write(control / "triggers", filled(sources / "triggers", words), 0o644)
    for name in SCRIPTS:
        write(control / name, filled(sources / name, words), 0o755)


def run_dpkg_deb(root: Path, out: Path, epoch: int) -> None:
    """Put it all into one file that everybody builds alike. Raises DebError."""
    for path in (root, *root.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    words = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(out)]
    run_dpkg(words, SOURCE_DATE_EPOCH=str(epoch))


def run_dpkg(words: Sequence[str], **more: str) -> str:
    """The output of a tool of dpkg. Raises DebError."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **more})
    except FileNotFoundError:
        raise DebError(f"{words[0]} is not here: the package is built on Debian") from None
    if done.returncode != 0:
        raise DebError(f"{words[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout
