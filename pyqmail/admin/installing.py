"""Puts the tree in its place, touching only what differs (owners and modes in admin/tree.py)."""

import fcntl
import os
import struct
import subprocess
from pathlib import Path

from pyqmail.admin import package, placing, tree
from pyqmail.admin.first_controls import RECOMMENDED, default_domain, plus_domain, usable_name
from pyqmail.admin.target import Owners, SetupError, Target, read_owners, remembered, replace, write_new
from pyqmail.admin.tree import Entry, Kind
from pyqmail.control import read_knobs
from pyqmail.policy.accounts import GROUPS, ROLES
from pyqmail.spool.split import count_split

DOCUMENTS = ("README.md", "INSTALL.md", "CHANGELOG.md", "LICENSE", "pyqmail/ARCHITECTURE.md", "pyqmail/PERFORMANCE.md")
EXAMPLES = "control-examples"
FAR_APART = ("queue/mess.new", "queue/pyqmail/drafts")  # whose subdirectories are to be so
EXT4 = "/proc/fs/ext4"  # what is mounted, by device
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000  # ioctl_iflags(2)


def install(target: Target, dependencies: str | None, me: str | None) -> None:
    """Put everything in its place. The launchers come after the library that they name."""
    target.root.mkdir(parents=True, exist_ok=True)
    if target.single_user:
        write_single_user(target)
    owners = read_owners(target) if target.may_chown or target.single_user else None
    entries = target.entries()
    for entry in entries:
        if entry.kind is Kind.DIRECTORY:
            put(target, owners, entry)
    lib = target.root / "lib"
    with package.only_one(lib):
        package.make_library(
            lib, target.library, home=target.home, python=target.python, groups=target.groups, system=target.system,
            given=dependencies,
        )  # fmt: skip
        for entry in entries:
            if entry.kind is Kind.FILE:
                put(target, owners, entry)
        install_queue(target, owners)
        install_documents(target, owners)
        if target.choice() != remembered(target.root):
            replace(lib / "groups", "".join(f"{line}\n" for line in target.choice()).encode())
        package.remove_old(lib, target.library)
    if me is not None:
        write_controls(target, me)
    if target.single_user:
        write_catch_all(target)


def put(target: Target, owners: Owners | None, entry: Entry) -> None:
    """Make ``entry`` as it should be, touching only what differs."""
    path = target.root / entry.path
    if entry.content is not None and (not path.exists() or differs(path, entry)):
        replace(path, entry.content, entry.mode)  # into a directory of root's
    ids = None if owners is None else (owners.uids[entry.owner], owners.gid)
    try:
        with placing.opened_parent(target.root, entry.path) as (parent, name):
            if name != ".":
                placing.make(parent, name, entry.kind)
            placing.settle(parent, name, entry, ids)
    except OSError as error:
        raise SetupError(f"{path} is in the way: {error.strerror}") from error


def differs(path: Path, entry: Entry) -> bool:
    """Whether a file that is ours has other content."""
    if entry.content is None or entry.admins or not path.is_file():
        return False
    return path.read_bytes() != entry.content


def queue_split(target: Target) -> int:
    """The number of subdirectories: control/conf-split, else that of an existing queue, else 23."""
    configured = read_knobs(str(target.root)).split
    if (target.root / "control" / "conf-split").exists():
        return configured
    return count_split(str(target.root / "queue"), configured)


def install_queue(target: Target, owners: Owners | None) -> None:
    """Make a queue where there is none. mess/ is renamed into place last: a queue that has it is left as it is."""
    final = target.root / "queue" / "mess"
    split = queue_split(target)
    if split != read_knobs(str(target.root)).split:
        write_new(target.root / "control" / "conf-split", f"{split}\n")
    there = final.is_dir()
    for entry in tree.private_entries(split) if there else tree.queue_entries(split):
        if entry.path.startswith("queue/mess"):
            entry = Entry(entry.path.replace("mess", "mess.new", 1), entry.kind, entry.owner, entry.mode)
        put_into_queue(target, owners, entry)
    if keeps_no_journal(target.root / "queue"):
        for entry in tree.draft_entries():
            put_into_queue(target, owners, entry)
    if there:
        return
    with placing.opened_parent(target.root, "queue/mess") as (parent, name):
        os.rename("mess.new", name, src_dir_fd=parent, dst_dir_fd=parent)


def put_into_queue(target: Target, owners: Owners | None, entry: Entry) -> None:
    """The same for what lies in the queue, with what some of it needs beside owner and mode."""
    put(target, owners, entry)
    if entry.path in FAR_APART:
        spread(target.root, entry.path)
    if entry.path == "queue/lock/tcpto":
        placing.fill_table(target.root, entry.path)


def keeps_no_journal(folder: Path) -> bool:
    """Whether ``folder`` lies on ext4 without a journal, which passes by what was freed lately when it makes a file.

    There drafts have places of their own (spool/draft); where there is a journal, each place more is more to write.
    """
    device = os.stat(folder).st_dev
    try:
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        options = Path(EXT4, name, "options").read_text()
    except OSError:
        return False
    return not any(option.startswith("data=") for option in options.split())


def spread(root: Path, place: str) -> None:
    """Ask ext4 to put the subdirectories of ``place`` far apart (chattr +T); other filesystems need no asking."""
    with placing.opened_parent(root, place) as (parent, name):
        fd = os.open(name, placing.DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        flags = struct.unpack("i", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))[:4])[0]
        if not flags & FS_TOPDIR_FL:
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("q", flags | FS_TOPDIR_FL))
    except OSError:
        pass
    finally:
        os.close(fd)


def documents_of_checkout() -> list[tuple[Path, str]]:
    """The documents, manual pages and examples: where each is, and its place below the home.

    They lie beside the package in a checkout, and in its share/ where pip installed it.
    """
    beside = package.package_directory() / "share"
    checkout = beside if beside.is_dir() else package.package_directory().parent
    found = [(checkout / name, f"doc/{Path(name).name}") for name in DOCUMENTS]
    found += [(path, f"doc/{path.relative_to(checkout)}") for path in sorted((checkout / EXAMPLES).rglob("*"))]
    pages = (package.package_directory() / "man").glob("*.[1578]")
    return found + [(page, f"man/man{page.suffix[1:]}/{page.name}") for page in pages]


def install_documents(target: Target, owners: Owners | None) -> None:
    """Copy the documents, manual pages and examples, with the directories of these."""
    put(target, owners, tree.directory(f"doc/{EXAMPLES}"))
    for source, place in documents_of_checkout():
        if source.is_dir():
            put(target, owners, tree.directory(place))
        elif source.is_file():
            mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
            put(target, owners, Entry(place, Kind.FILE, "root", mode, source.read_bytes()))


def write_controls(target: Target, me: str) -> None:
    """First control files, as config-fast writes them, when control/me is missing."""
    control = target.root / "control"
    if (control / "me").exists():
        return
    name = me.encode("utf-8", "surrogateescape")
    if not usable_name(name):
        raise SetupError(f"{me!r} is no host name")
    write_new(control / "defaultdomain", default_domain(name).decode() + "\n")
    write_new(control / "plusdomain", plus_domain(name).decode() + "\n")
    write_new(control / "locals", f"{me}\n")
    write_new(control / "rcpthosts", f"{me}\n")
    for file, data in RECOMMENDED.items():
        write_new(control / file, data.decode())
    write_new(control / "me", f"{me}\n")


# The single-user tree


def write_single_user(target: Target) -> None:
    """One and the same user, the caller, in every role."""
    write_new(target.root / "control" / "conf-users", f"{os.geteuid()}\n" * len(ROLES))
    write_new(target.root / "control" / "conf-groups", f"{os.getegid()}\n" * len(GROUPS))


def write_catch_all(target: Target) -> None:
    """Deliver every local part below TREE/home: the accounts of the machine are never consulted."""
    home, uid, gid = f"{target.home}/home", os.geteuid(), os.getegid()
    for name in ("", "Maildir", "Maildir/new", "Maildir/cur", "Maildir/tmp"):
        (target.root / "home" / name).mkdir(mode=0o700, exist_ok=True)
    write_new(target.root / "home" / ".qmail-default", "./Maildir/\n")
    write_new(target.root / "users" / "assign", f"+:owner:{uid}:{gid}:{home}:-::\n.\n")
    if not (target.root / "users" / "cdb").exists():
        words = [target.python, "-ISXutf8", str(target.root / "bin" / "qmail-newu")]
        result = subprocess.run(words, env={"QMAIL_HOME": str(target.root)}, capture_output=True, check=False)
        if result.returncode != 0:
            raise SetupError(f"qmail-newu failed: {os.fsdecode(result.stderr).strip()}")
