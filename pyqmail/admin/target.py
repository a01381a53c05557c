"""Where a tree is installed, and what is chosen for it: the groups of modules, remembered in HOME/lib/groups."""

import os
from dataclasses import dataclass
from pathlib import Path

from pyqmail.admin import package, tree
from pyqmail.admin.modules import debian_only
from pyqmail.admin.tree import Entry
from pyqmail.policy.accounts import read_accounts

SYSTEM = "system-packages"  # the line that says: Debian's own packages where they exist


class SetupError(Exception):
    """Nothing more can be done; the text is the line to print."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is installed where. ``root`` is where files are put: DESTDIR and the home."""

    home: str
    root: Path
    python: str
    single_user: bool
    may_chown: bool
    groups: tuple[str, ...] = ()
    system: bool = False

    @property
    def library(self) -> str:
        """The name of the library directory below lib/."""
        made_of = [*self.choice(), *debian_only(self.groups)]
        return f"pyqmail-{package.build_id(self.python, self.home, made_of)}"

    def choice(self) -> list[str]:
        """What is remembered of the choice, a line each."""
        return [*sorted(self.groups), *([SYSTEM] if self.system else [])]

    def entries(self) -> list[Entry]:
        """All paths but those of the queue."""
        return tree.home_entries(self.home, f"{self.home}/lib/{self.library}", self.python)


def remembered(root: Path) -> list[str]:
    """The choice of the installation below ``root``; nothing where there is none."""
    try:
        return (root / "lib" / "groups").read_text().split()
    except FileNotFoundError:
        return []


@dataclass(frozen=True, slots=True)
class Owners:
    """Numeric ids by role; the group is that of the queue."""

    uids: dict[str, int]
    gid: int


def read_owners(target: Target) -> Owners:
    """The ids for this tree. Raises AccountMissing."""
    ids = read_accounts(str(target.root))
    uids = {
        "alias": ids.uid_alias,
        "qmaild": ids.uid_daemon,
        "root": ids.uid_root,
        "qmailq": ids.uid_queue,
        "qmailr": ids.uid_remote,
        "qmails": ids.uid_send,
    }
    return Owners(uids, ids.gid_qmail)


def write_new(path: Path, text: str) -> None:
    """Write a file of the admin's, mode 0644, if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, text.encode())


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file with this content in the place of an old one, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as file:
            file.write(content)
        fresh.chmod(mode)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise


def say(fd: int, line: str) -> None:
    """Write one line to a descriptor."""
    os.write(fd, os.fsencode(line) + b"\n")
