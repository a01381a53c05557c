"""Installs the tree below the home, or checks one (qmail-setup(8); owners and modes in admin/tree.py).

    qmail-setup [--check | --accounts | --sendmail | --no-sendmail] [--home DIR] [--single-user] [--dependencies DIR]
                [--with GROUP] [--without GROUP] [--system-packages] [--me NAME] [--python PATH]
    qmail-setup --download DIR | --modules DIR | --deb OUT [--wheels DIR]
    qmail-setup --remove [--purge] [--accounts] [--home DIR]

Running it again changes nothing that is right. It never touches what is the admin's: control/, users/, alias/, rc and
an existing queue are left as they are. With DESTDIR in the environment everything is put below that directory, and the
files still name the home.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyqmail.admin import debian_package, system_sendmail
from pyqmail.admin.catalogue import PYTHON, PYTHON_PLACES
from pyqmail.admin.fetching import FetchError, fetch
from pyqmail.admin.inspection import check
from pyqmail.admin.installing import documents_of_checkout, install
from pyqmail.admin.modules import ModulesMissing, add_modules, debian_only
from pyqmail.admin.news import installed_library, news
from pyqmail.admin.package import PackageError, open_to_all
from pyqmail.admin.removal import Removal, RemovalError, remove
from pyqmail.admin.system_accounts import make_accounts, names, user_names
from pyqmail.admin.system_sendmail import SendmailTrouble
from pyqmail.admin.target import SYSTEM, SetupError, Target, remembered, say
from pyqmail.admin.wheels import Interpreter, WheelError, digest, find_python, interpreter_of, select
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.dependencies import LockError, chosen, groups_of, lock_path, read_lock
from pyqmail.launch import run
from pyqmail.policy.accounts import GROUPS, AccountMissing, read_accounts

EXPECTED = (
    SetupError, PackageError, SendmailTrouble, RemovalError, ModulesMissing, FetchError, WheelError, LockError,
    AccountMissing, ControlUnreadable, debian_package.DebError,
)  # fmt: skip
DEBIANS = ((3, 11), (3, 13))  # of Debian 12 and 13: what a wheelhouse is made for, beside this Python


def console() -> None:
    """The command that pip puts on the path with the wheel of this package; it never returns."""
    run("pyqmail.admin.setup", 1)


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
        options.python = find_python([options.python] if options.python else PYTHON_PLACES)
        if options.deb:
            return package_for_debian(options)
        if options.download or options.modules:
            return provide(options)
        return act(options, make_target(options, environ))
    except EXPECTED as error:
        say(2, f"qmail-setup: {error}")
    except OSError as error:
        say(2, f"qmail-setup: {error.filename or 'cannot write'}: {error.strerror or error}")
    return 1


def parse_options(words: list[str]) -> argparse.Namespace:
    """The options of the command line; --help and mistakes end the program by themselves."""
    known = groups_of(read_lock())
    parser = argparse.ArgumentParser("qmail-setup", description="install the pyqmail tree, or check it")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="report what is wrong and change nothing")
    what.add_argument("--accounts", action="store_true", help="only make missing users and groups")
    what.add_argument("--sendmail", action="store_true", help="put our sendmail, mailq, newaliases before the system's")
    what.add_argument("--no-sendmail", action="store_true", help="give the system its sendmail, mailq, newaliases back")
    what.add_argument(
        "--download", metavar="DIR", help="fetch the wheels for other machines into DIR, and nothing else"
    )
    what.add_argument("--modules", metavar="DIR", help="put the modules that are needed into DIR, and nothing else")
    what.add_argument("--deb", metavar="OUT", help="build the Debian package: a file, or one in the directory OUT")
    parser.add_argument("--wheels", metavar="DIR", help="with --deb: what --download fetched, instead of the network")
    parser.add_argument(
        "--with",
        metavar="GROUP",
        dest="groups",
        action="append",
        default=[],
        help="add that group's modules: " + ", ".join(known),
    )
    parser.add_argument(
        "--without", metavar="GROUP", action="append", default=[], help="leave that group's modules out again"
    )
    parser.add_argument(
        "--system-packages",
        action=argparse.BooleanOptionalAction,
        help="use Debian's own packages of Python modules where they exist",
    )
    parser.add_argument("--home", help="the qmail home (default: $QMAIL_HOME, else /var/qmail)")
    parser.add_argument("--single-user", action="store_true", help="everything belongs to and runs as the caller")
    parser.add_argument("--dependencies", metavar="DIR", help="take the modules from the wheels in DIR; no network")
    parser.add_argument("--me", metavar="NAME", help="write first control files for host NAME if control/me is missing")
    parser.add_argument("--python", help=f"the interpreter of the launchers (default: {PYTHON}, or a newer one)")
    parser.add_argument("--remove", action="store_true", help="undo what was made; queue, control and mail stay")
    parser.add_argument("--purge", action="store_true", help="with --remove: queue, control, users, alias and mail too")
    options = parser.parse_args(words)
    if options.wheels and not options.deb:
        parser.error("--wheels goes with --deb")
    if options.purge and not options.remove:
        parser.error("--purge goes with --remove")
    if options.remove and (options.check or options.sendmail or options.no_sendmail or options.me):
        parser.error("--remove goes with --purge, --accounts and --home only")
    if unknown := sorted({*options.groups, *options.without} - set(known)):
        parser.error(f"no group {unknown[0]}: there are {', '.join(known)}")
    return options


def make_target(options: argparse.Namespace, environ: Mapping[bytes, bytes]) -> Target:
    """Where to install, after the checks that need no file written. Raises SetupError."""
    home = os.path.normpath(options.home or home_of(environ))
    destdir = os.fsdecode(environ.get(b"DESTDIR", b""))
    if not home.startswith("/") or home == "/" or not home.isprintable() or ":" in home:
        raise SetupError(f"the home must be an absolute path without colons: {home!r}")
    root = Path(destdir + home)
    single = options.single_user or is_single_user(root)
    if single and os.geteuid() == 0 and not options.check:
        raise SetupError("a single-user tree cannot be root's: nothing is ever delivered as root")
    if not single and not destdir and not options.check and os.geteuid() != 0:
        raise SetupError("needs root; an unprivileged tree is made with --single-user")
    if not readable_by_all(options.python) and not single:
        raise SetupError(f"{options.python} cannot be run by every user; name another with --python")
    kept = remembered(root)
    groups = ({*kept, *options.groups} - {SYSTEM}) - set(options.without)
    system = SYSTEM in kept if options.system_packages is None else options.system_packages
    return Target(home, root, options.python, single, os.geteuid() == 0, tuple(sorted(groups)), system)


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
    before = installed_library(target.root)
    install(target, options.dependencies, options.me)
    for line in news(before, target.root):
        say(1, line)
    return 0


def provide(options: argparse.Namespace) -> int:
    """A wheelhouse for machines without a network, or a directory of modules for a checkout."""
    if options.modules:
        make_modules(Path(options.modules), options)
        return 0
    directory, here = Path(options.download), interpreter_of(options.python)
    wanted = chosen(read_lock(), options.groups, None)
    pythons = {Interpreter(version, here.machine) for version in (*DEBIANS, here.version)}
    fetch(wanted, directory, options.python, sorted(pythons, key=str))
    for python in pythons:
        select(directory, [item for item in wanted if item.wanted_by(python.version)], python)
    say(1, f"wheels for {', '.join(sorted(map(str, pythons)))} are in {directory}")
    return 0


def package_for_debian(options: argparse.Namespace) -> int:
    """Build the Debian package, with wheels for the Python of each release. Raises DebError."""
    with tempfile.TemporaryDirectory() as scratch:
        if not options.wheels:
            options.download = options.wheels = scratch
            provide(options)
        machine, found = interpreter_of(options.python).machine, set()
        for version in DEBIANS:
            wanted = chosen(read_lock(), options.groups, version)
            found |= set(select(Path(options.wheels), wanted, Interpreter(version, machine)))
        newest = max(DEBIANS)
        say(1, f"built {debian_package.build(Path(options.deb), sorted(found), (newest[0], newest[1] + 1))}")
    return 0


def make_modules(directory: Path, options: argparse.Namespace) -> None:
    """Put the modules into a directory, in the place of other ones, when they are whole."""
    system, groups = bool(options.system_packages), sorted(options.groups)
    marker = f"{os.path.realpath(options.python)} {groups} {debian_only(groups)} {system} {digest(Path(lock_path()))}\n"
    if (directory / "ready").is_file() and (directory / "ready").read_text() == marker:
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=directory.parent) as scratch:
        staged, old = Path(scratch) / "modules", Path(scratch) / "old"
        staged.mkdir()
        add_modules(staged, options.python, groups, given=options.dependencies, system=system)
        (staged / "ready").write_text(marker)
        open_to_all(staged)
        if directory.exists():
            directory.rename(old)
        staged.rename(directory)


def place_sendmail(target: Target, *, take: bool) -> int:
    """Put our sendmail in the system's place, or give that back. Raises SendmailTrouble."""
    if str(target.root) != target.home or not target.may_chown or target.single_user:
        raise SetupError("--sendmail is for root, on the machine itself, with a tree that is not single-user")
    for line in (system_sendmail.take_over if take else system_sendmail.give_back)(target.home):
        say(1, line)
    return 0


def take_away(target: Target, *, purge: bool, accounts: bool) -> int:
    """Undo what was made. Raises RemovalError."""
    on_host = str(target.root) == target.home and target.may_chown and not target.single_user
    groups = names(target, "conf-groups", GROUPS)
    documents = [place for _, place in documents_of_checkout()]
    for line in remove(
        Removal(target.home, target.root, on_host, purge, documents, user_names(target), groups, accounts)
    ):
        say(1, line)
    return 0
