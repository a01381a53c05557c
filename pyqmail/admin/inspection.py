"""What is wrong with an installed tree: qmail-setup --check."""

import os
import stat
import sys

from pyqmail.admin import package, tree
from pyqmail.admin.going_back import needs_of_queue
from pyqmail.admin.installing import differs, queue_split
from pyqmail.admin.limits import small_limits
from pyqmail.admin.placing import KINDS
from pyqmail.admin.target import Owners, Target, read_owners, say
from pyqmail.admin.tree import Entry
from pyqmail.spool.layout import read_layout
from pyqmail.spool.split import describe_odd, odd_directories


def check(target: Target) -> int:
    """Report each wrong owner, group, mode, type or content and each missing path; 1 if there is one."""
    owners = read_owners(target)
    wrong = [line for entry in target.entries() for line in faults(target, owners, entry)]
    drafts = tree.draft_entries()
    if not (target.root / drafts[0].path).exists():
        drafts = []
    for entry in tree.queue_entries(queue_split(target)) + drafts:
        wrong += faults(target, owners, entry)
    wrong += odd_queue_directories(target)
    tcpto = target.root / "queue" / "lock" / "tcpto"
    if tcpto.is_file() and tcpto.stat().st_size != tree.TCPTO_BYTES:
        wrong.append(f"{tcpto} has wrong size")
    wrong += library_faults(target)
    wrong += setuid_faults(target)
    wrong += small_limits(str(target.root))
    notes = list(needs_of_queue(str(target.root)))
    sys.path.append(str(target.root / "lib" / target.library))
    try:
        from pyqmail.admin.instructions import instruction_troubles  # needs modules that perhaps only the tree has
    except ModuleNotFoundError as error:
        notes.append(f"the .qmail files were not looked at, for want of the module {error.name}: qmail-showctl --check")
    else:
        wrong += instruction_troubles(target.home) if str(target.root) == target.home else ()
    for line in wrong:
        say(1, f"qmail-setup: warning: {line}")
    for line in notes:
        say(1, f"qmail-setup: note: {line}")
    return 1 if wrong else 0


def odd_queue_directories(target: Target) -> list[str]:
    """The queue's directories that are one too many; the missing ones are among the entries."""
    layout = read_layout(str(target.root))
    odd = odd_directories(layout.queue, layout.split, todo_split=layout.todo_split)
    return [describe_odd(name, missing=False, split=layout.split) for name, missing in odd if not missing]


def faults(target: Target, owners: Owners, entry: Entry) -> list[str]:
    """What is wrong with one path, in the words of qmail's own checker."""
    path = target.root / entry.path
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return [f"{path} does not exist"]
    found = []
    if not KINDS[entry.kind](status.st_mode):
        return [f"{path} has wrong type"]
    if status.st_uid != owners.uids[entry.owner]:
        found.append(f"{path} has wrong owner")
    if status.st_gid != owners.gid:
        found.append(f"{path} has wrong group")
    if stat.S_IMODE(status.st_mode) != entry.mode:
        found.append(f"{path} has wrong permissions")
    if differs(path, entry):
        found.append(f"{path} has wrong content")
    return found


def library_faults(target: Target) -> list[str]:
    """What is wrong with the library that the launchers name."""
    top = target.root / "lib" / target.library
    if not (top / "pyqmail" / "build.py").is_file():
        return [f"{top} does not exist"]
    found = []
    for path in (top, *(path for path in top.rglob("*") if not path.is_symlink())):
        wanted = 0o755 if path.is_dir() else 0o644
        if stat.S_IMODE(path.stat().st_mode) != wanted:
            found.append(f"{path} has wrong permissions")
    for source in package.sources():
        copy = top / "pyqmail" / source.relative_to(package.package_directory())
        if not copy.is_file():
            found.append(f"{copy} does not exist")
        elif source.name != "build.py" and copy.read_bytes() != source.read_bytes():
            found.append(f"{copy} has wrong content")
    return found


def setuid_faults(target: Target) -> list[str]:
    """Files with a setuid or setgid bit: there is none but that of alias/."""
    found = []
    for folder, _, files in os.walk(target.root):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
            if mode & (stat.S_ISUID | stat.S_ISGID) and path != str(target.root / "alias"):
                found.append(f"{path} has a setuid or setgid bit")
    return found
