"""Taking the tree away: what qmail-setup made goes, what is the admin's and the users' stays (qmail-setup --remove).

    goes at once     the system's sendmail comes back; bin, boot, doc, man, run, lib: whatever qmail-setup put there
    with --purge     queue, control, users, alias, the mail of virtual domains, and that of a single-user tree
    with --accounts  the users and groups that qmail-setup makes

The library goes last: what was interrupted is still recognised as a tree, and the next run goes on.
"""

import grp
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyqmail.admin import system_sendmail, tree
from pyqmail.admin.catalogue import PROGRAMS
from pyqmail.admin.limits import run_texts
from pyqmail.admin.running import running
from pyqmail.launch import is_launcher

KEPT = ("queue", "control", "users", "alias", "domains", "home")
OURS = ("bin", "boot", "doc", "lib", "man", "rc", "run")
PROCESSES_SHOWN = 5


class RemovalError(Exception):
    """Why nothing was removed, or not all; the text is the line to print."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to go. ``root`` is where the files lie: DESTDIR and the home; ``on_host`` without a DESTDIR and as root.

    ``documents`` are the paths of documents and manual pages below the home; ``users`` and ``groups`` the accounts.
    """

    home: str
    root: Path
    on_host: bool
    purge: bool
    documents: Sequence[str]
    users: Sequence[str]
    groups: Sequence[str]
    accounts: bool


def remove(wanted: Removal) -> Iterator[str]:
    """Take the tree away; a line for each thing that an admin would want to know. Raises RemovalError and OSError."""
    refuse(wanted)
    if wanted.on_host:
        yield from system_sendmail.give_back(wanted.home)
    yield from remove_files(wanted)
    if wanted.purge:
        for name in KEPT:
            yield from clear(wanted.root / name)
    yield from remove_libraries(wanted.root / "lib")
    yield from leave(wanted)
    if wanted.accounts:
        yield from remove_accounts(wanted)


def refuse(wanted: Removal) -> None:
    """Find out before anything is touched why it may not go. Raises RemovalError."""
    if wanted.accounts and not wanted.on_host:
        raise RemovalError("--accounts is for root, on the machine itself, with a tree that is not single-user")
    kept = [name for name in KEPT if (wanted.root / name).exists()]
    if wanted.accounts and not wanted.purge and kept:
        raise RemovalError(f"--accounts needs --purge: {', '.join(kept)} would belong to nobody")
    if wanted.root.exists() and not is_tree(wanted.root):
        raise RemovalError(f"{wanted.root} is not a tree of ours: nothing was removed")
    found = running(str(wanted.root))
    if found:
        shown = ", ".join(f"{words} (pid {pid})" for pid, words in found[:PROCESSES_SHOWN])
        more = f" and {len(found) - PROCESSES_SHOWN} more" if len(found) > PROCESSES_SHOWN else ""
        raise RemovalError(f"nothing was removed, for these run: {shown}{more}; stop them first")


def is_tree(root: Path) -> bool:
    """Whether ``root`` is a tree of ours, or what an earlier removal left of one: never /usr or a user's home."""
    if any((root / "lib").glob("pyqmail-*/pyqmail/build.py")) or is_launcher(str(root / "bin/qmail-queue")):
        return True
    return {path.name for path in root.iterdir()} <= {*KEPT, *OURS}


# Files


def remove_files(wanted: Removal) -> Iterator[str]:
    """What qmail-setup put below the home, but for the library."""
    root = wanted.root
    for path in sorted(listed(root / "bin")):
        if is_launcher(str(path)) or (path.is_symlink() and path.name in PROGRAMS):
            path.unlink()
    made = [f"boot/{name}" for name in tree.boot_scripts()]
    examples = [name for name in wanted.documents if (root / name).is_dir()]
    for name in (*made, *wanted.documents):
        if name not in examples:
            (root / name).unlink(missing_ok=True)
    for name in sorted({*examples, "doc/control-examples"}, reverse=True):  # what is inside comes first
        yield from close(root / name)
    yield from clear(root / "run")
    if (root / "rc").is_file():
        if (root / "rc").read_bytes() == tree.rc_script(wanted.home):
            (root / "rc").unlink()
        else:
            yield f"left: {root / 'rc'}, which is not as qmail-setup wrote it"
    folders = [f"man/{form}{section}" for form in ("man", "cat") for section in (1, 5, 7, 8)]
    for name in ("bin", "boot", "doc", *folders, "man"):
        yield from close(root / name)


def remove_libraries(lib: Path) -> Iterator[str]:
    """Every version, whole or not."""
    (lib / "groups").unlink(missing_ok=True)
    for path in sorted(listed(lib)):
        if path.name.startswith(("pyqmail-", ".new-")):
            shutil.rmtree(path)
    if not lib.is_symlink():
        (lib / "groups").unlink(missing_ok=True)  # what was chosen with --with
    yield from close(lib)


def listed(folder: Path) -> list[Path]:
    """What is in ``folder``; nothing when it is not there, or a link to somewhere else."""
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def clear(path: Path) -> Iterator[str]:
    """Take a directory away with all that is in it. One that is a mount point stays, empty."""
    for inside in listed(path):
        shutil.rmtree(inside) if inside.is_dir() and not inside.is_symlink() else inside.unlink()
    yield from close(path)


def close(path: Path) -> Iterator[str]:
    """Remove a directory that is empty; say what it has if it is not."""
    if path.is_symlink() or not path.is_dir():
        return
    names = sorted(inside.name for inside in path.iterdir())
    if names:
        yield f"left: {path}, with {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"
        return
    try:
        path.rmdir()
    except OSError as error:
        yield f"left: {path}: {error.strerror}"


def leave(wanted: Removal) -> Iterator[str]:
    """The home itself, what stays there, and what outside it still names it."""
    kept = [name for name in KEPT if (wanted.root / name).exists()]
    if kept:
        yield f"kept: {', '.join(str(wanted.root / name) for name in kept)} (--purge removes them too)"
    elif wanted.root.is_dir():
        yield from close(wanted.root)
    if wanted.on_host:
        for path, text in run_texts(wanted.home):
            if wanted.home in text and not path.startswith(f"{wanted.home}/"):
                yield f"left: {path}, which starts what is no longer there"


# Accounts


def remove_accounts(wanted: Removal) -> Iterator[str]:
    """Users whose home is the tree's and who cannot log in, then groups that nobody is left in."""
    for name in dict.fromkeys(wanted.users):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            continue  # the role that qmail itself gives to root
        if entry.pw_dir not in (wanted.home, f"{wanted.home}/alias"):
            yield f"left: user {name}, whose home is {entry.pw_dir}: not made by qmail-setup"
            continue
        yield account_tool("userdel", "user", name)
    for name in dict.fromkeys(wanted.groups):
        try:
            group = grp.getgrnam(name)
        except KeyError:
            continue
        members = {*group.gr_mem, *(entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == group.gr_gid)}
        if members:
            yield f"left: group {name}, which {', '.join(sorted(members))} is in"
        else:
            yield account_tool("groupdel", "group", name)


def account_tool(tool: str, what: str, name: str) -> str:
    """Run userdel or groupdel; the line that says what became of it. Raises RemovalError."""
    path = shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise RemovalError(f"{tool} is not here: remove the {what} {name} by hand")
    done = subprocess.run([path, name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RemovalError(f"{tool} {name}: {done.stderr.strip()}")
    return f"removed {what} {name}"
