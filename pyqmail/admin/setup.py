"""Installs the tree below the home, or checks one (qmail-setup(8); owners and modes in admin/tree.py).

    qmail-setup [--check | --accounts | --sendmail | --no-sendmail] [--home DIR] [--single-user] [--dependencies DIR]
                [--me NAME] [--python PATH]
    qmail-setup --remove [--purge] [--accounts] [--home DIR]

Running it again changes nothing that is right. It never touches what is the admin's: control/, users/, alias/, rc and
an existing queue are left as they are. With DESTDIR in the environment everything is put below that directory, and the
files still name the home.
"""

import argparse
import fcntl
import grp
import os
import pwd
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyqmail.admin import package, system_sendmail, tree
from pyqmail.admin.catalogue import PYTHON
from pyqmail.admin.first_controls import default_domain, plus_domain, usable_name
from pyqmail.admin.limits import small_limits
from pyqmail.admin.package import PackageTrouble
from pyqmail.admin.removal import Removal, RemovalTrouble, remove
from pyqmail.admin.system_sendmail import SendmailTrouble
from pyqmail.admin.tree import Entry, Kind
from pyqmail.control import ControlUnreadable, home_of, read_knobs
from pyqmail.policy.accounts import GROUPS, ROLES, AccountMissing, read_accounts
from pyqmail.spool.layout import read_layout
from pyqmail.spool.split import count_split, describe_odd, odd_directories

DOCUMENTS = ("README.md", "INSTALL.md", "CHANGELOG.md", "LICENSE", "pyqmail/ARCHITECTURE.md")
QUEUE_GROUP_ROLES = ("qmailq", "qmailr", "qmails")  # the other accounts have the powerless group
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000  # ioctl_iflags(2)
KINDS = {Kind.DIRECTORY: stat.S_ISDIR, Kind.FILE: stat.S_ISREG, Kind.FIFO: stat.S_ISFIFO}


class SetupTrouble(Exception):
    """Nothing more can be done; the text is the line to print."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is installed where. ``root`` is where files are put: DESTDIR and the home."""

    home: str
    root: Path
    python: str
    single_user: bool
    may_chown: bool

    @property
    def library(self) -> str:
        """The name of the library directory below lib/."""
        return f"pyqmail-{package.build_id(self.python, self.home)}"

    def entries(self) -> list[Entry]:
        """All paths but those of the queue."""
        return tree.home_entries(self.home, f"{self.home}/lib/{self.library}", self.python)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Install or check; 0 when all is well, 1 with one line for each trouble, 2 for misuse."""
    try:
        options = parse_options([os.fsdecode(arg) for arg in argv[1:]])
    except SystemExit as end:  # argparse has said what there is to say
        sys.stderr.flush()
        sys.stdout.flush()
        return 2 if end.code else 0
    os.umask(0o022)
    try:
        return act(options, make_target(options, environ))
    except (
        SetupTrouble,
        PackageTrouble,
        SendmailTrouble,
        RemovalTrouble,
        AccountMissing,
        ControlUnreadable,
    ) as trouble:
        say(2, f"qmail-setup: {trouble}")
    except OSError as error:
        say(2, f"qmail-setup: {error.filename}: {error.strerror}")
    return 1


def parse_options(words: list[str]) -> argparse.Namespace:
    """The options of the command line; --help and mistakes end the program by themselves."""
    parser = argparse.ArgumentParser("qmail-setup", description="install the pyqmail tree, or check it")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="report what is wrong and change nothing")
    what.add_argument("--accounts", action="store_true", help="only make missing users and groups")
    what.add_argument("--sendmail", action="store_true", help="put our sendmail, mailq, newaliases before the system's")
    what.add_argument("--no-sendmail", action="store_true", help="give the system its sendmail, mailq, newaliases back")
    parser.add_argument("--home", help="the qmail home (default: $QMAIL_HOME, else /var/qmail)")
    parser.add_argument("--single-user", action="store_true", help="everything belongs to and runs as the caller")
    parser.add_argument("--dependencies", metavar="DIR", help="copy the Python dependencies from DIR")
    parser.add_argument("--me", metavar="NAME", help="write first control files for host NAME if control/me is missing")
    parser.add_argument("--python", default=PYTHON, help=f"the interpreter of the launchers (default: {PYTHON})")
    parser.add_argument("--remove", action="store_true", help="undo what was made; queue, control and mail stay")
    parser.add_argument("--purge", action="store_true", help="with --remove: queue, control, users, alias and mail too")
    options = parser.parse_args(words)
    if options.purge and not options.remove:
        parser.error("--purge goes with --remove")
    if options.remove and (options.check or options.sendmail or options.no_sendmail or options.me):
        parser.error("--remove goes with --purge, --accounts and --home only")
    return options


def make_target(options: argparse.Namespace, environ: Mapping[bytes, bytes]) -> Target:
    """Where to install, after the checks that need no file written. Raises SetupTrouble."""
    home = os.path.normpath(options.home or home_of(environ))
    destdir = os.fsdecode(environ.get(b"DESTDIR", b""))
    if not home.startswith("/") or home == "/" or not home.isprintable() or ":" in home:
        raise SetupTrouble(f"the home must be an absolute path without colons: {home!r}")
    root = Path(destdir + home)
    single = options.single_user or is_single_user(root)
    if single and os.geteuid() == 0 and not options.check:
        raise SetupTrouble("a single-user tree cannot be root's: nothing is ever delivered as root")
    if not single and not destdir and not options.check and os.geteuid() != 0:
        raise SetupTrouble("needs root; an unprivileged tree is made with --single-user")
    if not readable_by_all(options.python) and not single:
        raise SetupTrouble(f"{options.python} cannot be run by every user; name another with --python")
    return Target(home, root, options.python, single, os.geteuid() == 0)


def is_single_user(root: Path) -> bool:
    """Whether a tree that exists already is a single-user one."""
    try:
        return (root / "control" / "conf-users").exists() and read_accounts(str(root)).single_user
    except (AccountMissing, PermissionError):
        return False


def readable_by_all(python: str) -> bool:
    """Whether others may execute ``python`` and enter every directory on the way to it."""
    try:
        path = Path(python).resolve(strict=True)
        return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))
    except OSError:
        return False


def act(options: argparse.Namespace, target: Target) -> int:
    """Do what was asked for."""
    if options.check:
        return check(target)
    if options.remove:
        return take_away(target, purge=options.purge, accounts=options.accounts)
    if options.sendmail or options.no_sendmail:
        return place_sendmail(target, take=options.sendmail)
    if target.may_chown and str(target.root) == target.home:
        make_accounts(target)
    if options.accounts:
        return 0
    install(target, options.dependencies, options.me)
    return 0


def place_sendmail(target: Target, *, take: bool) -> int:
    """Put our sendmail in the system's place, or give that back. Raises SendmailTrouble."""
    if str(target.root) != target.home or not target.may_chown or target.single_user:
        raise SetupTrouble("--sendmail is for root, on the machine itself, with a tree that is not single-user")
    for line in (system_sendmail.take_over if take else system_sendmail.give_back)(target.home):
        say(1, line)
    return 0


def take_away(target: Target, *, purge: bool, accounts: bool) -> int:
    """Undo what was made. Raises RemovalTrouble."""
    on_host = str(target.root) == target.home and target.may_chown and not target.single_user
    users, groups = names(target, "conf-users", ROLES), names(target, "conf-groups", GROUPS)
    documents = [place for _, place in documents_of_checkout()]
    for line in remove(Removal(target.home, target.root, on_host, purge, documents, users, groups, accounts)):
        say(1, line)
    return 0


# Accounts


def names(target: Target, file: str, default: Sequence[bytes]) -> list[str]:
    """The names of users or groups: those of a control file, else qmail's."""
    try:
        data = (target.root / "control" / file).read_text()
    except FileNotFoundError:
        return [os.fsdecode(name) for name in default]
    return [line.strip() for line in data.splitlines() if line.strip() and not line.startswith("#")]


def make_accounts(target: Target) -> None:
    """Make the groups and users that are missing. Raises SetupTrouble."""
    groups = names(target, "conf-groups", GROUPS)
    for group in groups:
        if not group.isdigit() and not known(grp.getgrnam, group):
            command(["groupadd", "--system", group])
    for role, user in zip((os.fsdecode(role) for role in ROLES), names(target, "conf-users", ROLES), strict=True):
        if user.isdigit() or known(pwd.getpwnam, user):
            continue
        group = groups[0] if role in QUEUE_GROUP_ROLES else groups[1]
        home = f"{target.home}/alias" if role == "alias" else target.home
        made = ["useradd", "--system", "--no-user-group", "--no-create-home", "-g", group, "-d", home]
        command([*made, "-s", "/usr/sbin/nologin", user])


def known(look_up: object, name: str) -> bool:
    """Whether the account database has ``name``."""
    try:
        look_up(name)  # type: ignore[operator]
    except KeyError:
        return False
    return True


def command(words: list[str]) -> None:
    """Run an account tool. Raises SetupTrouble."""
    path = shutil.which(words[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise SetupTrouble(f"{words[0]} is not here: make the user or group {words[-1]} by hand")
    result = subprocess.run([path, *words[1:]], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SetupTrouble(f"{words[0]} {words[-1]}: {result.stderr.strip()}")
    say(1, f"made {'group' if words[0] == 'groupadd' else 'user'} {words[-1]}")


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
        "root": ids.uid_root,
        "qmailq": ids.uid_queue,
        "qmailr": ids.uid_remote,
        "qmails": ids.uid_send,
    }
    return Owners(uids, ids.gid_qmail)


# Installation


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
    package.make_library(lib, target.library, home=target.home, python=target.python, given=dependencies)
    for entry in entries:
        if entry.kind is Kind.FILE:
            put(target, owners, entry)
    install_queue(target, owners)
    install_documents(target, owners)
    package.remove_old(lib, target.library)
    if me is not None:
        write_controls(target, me)
    if target.single_user:
        write_catch_all(target)


def put(target: Target, owners: Owners | None, entry: Entry) -> None:
    """Make ``entry`` as it should be, touching only what differs."""
    path = target.root / entry.path
    if not path.exists() or differs(path, entry):
        create(path, entry)
    status = path.lstat()
    if not KINDS[entry.kind](status.st_mode):
        raise SetupTrouble(f"{path} is in the way: not a {entry.kind.value}")
    if owners is not None and (status.st_uid, status.st_gid) != (owners.uids[entry.owner], owners.gid):
        os.chown(path, owners.uids[entry.owner], owners.gid, follow_symlinks=False)
    if stat.S_IMODE(path.lstat().st_mode) != entry.mode:
        path.chmod(entry.mode)


def differs(path: Path, entry: Entry) -> bool:
    """Whether a file that is ours has other content."""
    if entry.content is None or entry.admins or not path.is_file():
        return False
    return path.read_bytes() != entry.content


def create(path: Path, entry: Entry) -> None:
    """Make a missing path, or put a file with the right content in the place of the old one."""
    if entry.kind is Kind.DIRECTORY:
        path.mkdir(mode=0o700)
    elif entry.kind is Kind.FIFO:
        os.mkfifo(path, 0o600)
    else:
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(entry.content or b"")
        fresh.chmod(entry.mode)
        fresh.replace(path)


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
    if final.is_dir():
        put(target, owners, tree.PRIVATE)
        return
    for entry in tree.queue_entries(split):
        if entry.path.startswith("queue/mess"):
            entry = Entry(entry.path.replace("mess", "mess.new", 1), entry.kind, entry.owner, entry.mode)
        put(target, owners, entry)
        if entry.path == "queue/mess.new":
            spread(target.root / entry.path)
        if entry.path == "queue/lock/tcpto" and (target.root / entry.path).stat().st_size != tree.TCPTO_BYTES:
            (target.root / entry.path).write_bytes(bytes(tree.TCPTO_BYTES))
    final.with_name("mess.new").rename(final)


def spread(directory: Path) -> None:
    """Ask ext4 to put the subdirectories of ``directory`` far apart (chattr +T); other filesystems need no asking."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = struct.unpack("i", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))[:4])[0]
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("q", flags | FS_TOPDIR_FL))
    except OSError:
        pass
    finally:
        os.close(fd)


def documents_of_checkout() -> list[tuple[Path, str]]:
    """The documents and manual pages of a checkout: where each is, and its place below the home."""
    checkout = package.package_directory().parent
    found = [(checkout / name, f"doc/{Path(name).name}") for name in DOCUMENTS]
    pages = (package.package_directory() / "man").glob("*.[1578]")
    return found + [(page, f"man/man{page.suffix[1:]}/{page.name}") for page in pages]


def install_documents(target: Target, owners: Owners | None) -> None:
    """Copy the documents and manual pages of a checkout."""
    for source, place in documents_of_checkout():
        if source.is_file():
            put(target, owners, Entry(place, Kind.FILE, "root", 0o644, source.read_bytes()))


def write_new(path: Path, text: str) -> None:
    """Write a file of the admin's, mode 0644, if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.replace(path)


def write_controls(target: Target, me: str) -> None:
    """First control files, as config-fast writes them, when control/me is missing."""
    control = target.root / "control"
    if (control / "me").exists():
        return
    name = me.encode("utf-8", "surrogateescape")
    if not usable_name(name):
        raise SetupTrouble(f"{me!r} is no host name")
    write_new(control / "defaultdomain", default_domain(name).decode() + "\n")
    write_new(control / "plusdomain", plus_domain(name).decode() + "\n")
    write_new(control / "locals", f"{me}\n")
    write_new(control / "rcpthosts", f"{me}\n")
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
            raise SetupTrouble(f"qmail-newu failed: {os.fsdecode(result.stderr).strip()}")


# The check


def check(target: Target) -> int:
    """Report each wrong owner, group, mode, type or content and each missing path; 1 if there is one."""
    owners = read_owners(target)
    wrong = [line for entry in target.entries() for line in faults(target, owners, entry)]
    for entry in tree.queue_entries(queue_split(target)):
        wrong += faults(target, owners, entry)
    wrong += odd_queue_directories(target)
    tcpto = target.root / "queue" / "lock" / "tcpto"
    if tcpto.is_file() and tcpto.stat().st_size != tree.TCPTO_BYTES:
        wrong.append(f"{tcpto} has wrong size")
    wrong += library_faults(target)
    wrong += setuid_faults(target)
    wrong += small_limits(str(target.root))
    for line in wrong:
        say(1, f"qmail-setup: warning: {line}")
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
    for path in (top, *top.rglob("*")):
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


def say(fd: int, line: str) -> None:
    """Write one line to a descriptor."""
    os.write(fd, os.fsencode(line) + b"\n")
