"""What of a tree runs: asked of /proc, for whoever is about to take the tree away (qmail-setup --remove)
or has changed its queue (qmail-shadowd --restore).

A process belongs to the tree when a word of its command line is a file of the tree that starts something, when it has
mapped a file of the tree's library (each program that shows its own name has), or when it holds a file of the queue
open. The root directories are compared too: a container's /var/qmail is another one than ours.
"""

import os
from collections.abc import Callable, Iterator

from pyqmail.system.processes import read_memory

STARTED_FROM = ("bin/", "boot/", "lib/", "rc", "service/", "supervise/")
HELD = ("queue/", "run/")


def running(home: str) -> list[tuple[int, str]]:
    """(pid, how it is shown) of each process of the tree ``home``; our own ancestors are none.

    A process that ends meanwhile, and one that we may not look at, is left out.
    """
    return list(_found(home, _belongs))


def serving(home: str) -> list[tuple[int, str]]:
    """The same of those that do the tree's work, whatever only supervises them left out."""
    return list(_found(home, lambda pid, home: _has_mapped(pid, home) or _holds(pid, home)))


def _found(home: str, belongs: Callable[[str, str], bool]) -> Iterator[tuple[int, str]]:
    ours = set(_ancestors())
    for name in sorted(os.listdir("/proc")):
        if name.isdigit() and int(name) not in ours and _same_tree(name, home) and belongs(name, home):
            yield int(name), _shown(name)


def _ancestors() -> Iterator[int]:
    pid = os.getpid()
    while pid > 0:
        yield pid
        try:
            pid = int(_read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])
        except (IndexError, ValueError):
            return


def _same_tree(pid: str, home: str) -> bool:
    """Whether ``home`` is the same directory for the process as for us."""
    try:
        theirs, here = os.stat(f"/proc/{pid}/root{home}"), os.stat(home)
    except OSError:
        return False
    return (theirs.st_dev, theirs.st_ino) == (here.st_dev, here.st_ino)


def _belongs(pid: str, home: str) -> bool:
    return _was_started_from(pid, home) or _has_mapped(pid, home) or _holds(pid, home)


def _was_started_from(pid: str, home: str) -> bool:
    """Whether its interpreter or shell was given a file of the tree: the first words that are no options."""
    try:
        directory = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        directory = "/"
    for word in read_memory(int(pid), "cmdline").split(b"\0")[:4]:
        path = os.path.normpath(os.path.join(directory, os.fsdecode(word)))
        if path.startswith(f"{home}/") and path.removeprefix(f"{home}/").startswith(STARTED_FROM):
            return True
    return False


def _has_mapped(pid: str, home: str) -> bool:
    return f" {home}/lib/".encode() in read_memory(int(pid), "maps")


def _holds(pid: str, home: str) -> bool:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            path = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if path.startswith(tuple(f"{home}/{part}" for part in HELD)):
            return True
    return False


def _shown(pid: str) -> str:
    words = read_memory(int(pid), "cmdline").replace(b"\0", b" ").strip() or _read(f"/proc/{pid}/comm").strip()
    return words[:120].decode("ascii", "backslashreplace")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
