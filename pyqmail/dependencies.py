"""What the package needs beside itself: dependencies.lock, the only list of it, and what stands there as values.

The file is in the format of pip (`pip install --require-hashes -r`): versions, and the hashes of the wheels for every
supported Python. Its sections are the groups that an admin can choose (qmail-setup(8), --with).
"""

import os
import re
from collections.abc import Iterable, Iterator

LOCK = "dependencies.lock"
BASE = "base"  # the group of every installation
TESTS = ("test", "fuzz")  # what only the sources' own checks need
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
# The distributions that are imported by another name than their own.
_MODULES = {
    "dnspython": "dns", "python-daemon": "daemon", "pure-cdb": "cdblib",
    "linkify-it-py": "linkify_it", "markdown-it-py": "markdown_it",
}  # fmt: skip
# What has no wheel, by group: Debian's package, and the modules of it and of what it needs.
DEBIAN_ONLY = {"accounts": ("python3-ldap", ("ldap", "ldapurl", "ldif", "_ldap", "pyasn1", "pyasn1_modules"))}


class LockError(ValueError):
    """The lock file cannot be read; the text is the line to print."""


class Requirement:
    """One distribution of the lock: its version, the hashes of its wheels, its groups and for which Pythons it is."""

    __slots__ = ("before", "groups", "hashes", "name", "version")

    def __init__(self, name: str, version: str, before: tuple[int, int] | None, groups: tuple[str, ...]) -> None:
        self.name = name
        self.version = version
        self.before = before  # needed by Pythons older than this one; None: by all
        self.groups = groups
        self.hashes: set[str] = set()

    @property
    def module(self) -> str:
        """The name that it is imported by."""
        return _MODULES.get(self.name, self.name.replace("-", "_"))

    def wanted_by(self, python: tuple[int, int]) -> bool:
        """Whether that Python needs it."""
        return self.before is None or python < self.before

    def line(self) -> str:
        """It as one line for pip, without its condition."""
        return " ".join(
            [f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in sorted(self.hashes))]
        )


def lock_path() -> str:
    """Where the lock of this copy of the package lies."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), LOCK)


def read_lock(path: str | None = None) -> list[Requirement]:
    """Every requirement, in the order of the file. Raises LockError and OSError."""
    with open(path or lock_path(), encoding="ascii") as file:
        return list(parse_lock(file.read()))


_SECTION = re.compile(r"# == (\w+(?:, \w+)*) ==")
_REQUIREMENT = re.compile(
    r'([a-z0-9-]+)==([A-Za-z0-9.]+)(?: ; python_version < "(\d+)\.(\d+)")?((?: --hash=sha256:[0-9a-f]{64})+)'
)


def parse_lock(text: str) -> Iterator[Requirement]:
    """The requirements in the text of a lock. Raises LockError."""
    groups: tuple[str, ...] = ()
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if section := _SECTION.fullmatch(line):
            groups = tuple(section[1].split(", "))
        if not line or line.lstrip().startswith("#"):
            continue
        found = _REQUIREMENT.fullmatch(line)
        if found is None or not groups:
            raise LockError(f"{LOCK}: not a requirement with its hashes: {line[:60]}")
        name, version, major, minor, hashes = found.groups()
        made = Requirement(name, version, (int(major), int(minor)) if major else None, groups)
        made.hashes = set(re.findall(r"[0-9a-f]{64}", hashes))
        yield made


def groups_of(lock: Iterable[Requirement]) -> list[str]:
    """The groups that an admin can choose, in the order of the file."""
    names = {group: None for requirement in lock for group in requirement.groups}
    return [name for name in names if name not in (BASE, *TESTS)]


def chosen(lock: Iterable[Requirement], groups: Iterable[str], python: tuple[int, int] | None) -> list[Requirement]:
    """What an installation with ``groups`` needs under ``python``, or under any with None; each once."""
    wanted = {BASE, *groups}
    found: dict[str, Requirement] = {}
    for item in lock:
        if not wanted.intersection(item.groups) or (python is not None and not item.wanted_by(python)):
            continue
        if item.name not in found or item.before is None:
            found[item.name] = item
    return list(found.values())


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing_module(module: str) -> str | None:
    """What to run when ``module`` cannot be imported, if it is one of the lock's or Debian's; else None."""
    top = module.partition(".")[0]
    for group, (package, modules) in DEBIAN_ONLY.items():
        if top in modules:
            return f"apt-get install {package}, then qmail-setup --with {group}"
    for requirement in read_lock():
        if requirement.module == top and requirement.groups[0] not in TESTS:
            return "qmail-setup" if BASE in requirement.groups else f"qmail-setup --with {requirement.groups[0]}"
    return None
