"""What in a configuration would bite: qmail-showctl --check, and the memory limits also for qmail-setup --check.

Each finding is one line that names the file and says what happens because of it. Nothing is changed.
"""

import os
import pwd
import re
import stat
from collections.abc import Iterator

from pyqmail.admin.check_one_file import file_modes, misread_values, show_value, unknown_name
from pyqmail.admin.cluster_check import cluster_troubles
from pyqmail.admin.control_files import BY_NAME
from pyqmail.admin.instructions import instruction_troubles
from pyqmail.admin.limits import run_texts, small_limits
from pyqmail.admin.outgoing_check import OUTGOING
from pyqmail.admin.srs_check import srs_troubles
from pyqmail.admin.supervision import missing_lines
from pyqmail.control import Control, ControlUnreadable, read_knobs
from pyqmail.formats.assign import AssignFormat, parse_assign
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.formats.printable import visible
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.policy.users import UsersDatabase, UsersTrouble, parse_assignment
from pyqmail.spool.layout import read_layout
from pyqmail.spool.split import describe_odd, odd_directories

NEEDED_ALIASES = ("postmaster", "mailer-daemon", "root")  # RFC 5321 section 4.5.1, qmail-send's bounces, cron
ACCESS_RULES = re.compile(r"\btcpserver\b[^\n]*?\s-x\s*(/\S+\.cdb)\b")


def find_trouble(home: str) -> list[str]:
    """Every finding for the tree ``home``, a line each."""
    control = Control(home)
    try:
        names = sorted(os.listdir(control.directory))
    except OSError as error:
        return [f"control: {error.strerror}: no program can start"]
    lines = list(file_modes(control, names))
    for name in names:
        lines += unknown_name(name) if name not in BY_NAME else misread_values(control, BY_NAME[name])
    for find in (
        _names,
        _domains,
        *OUTGOING,
        _concurrency,
        _default_delivery,
        srs_troubles,
        _signing,
        cluster_troubles,
    ):
        try:
            lines += find(home, control)
        except ControlUnreadable:
            continue  # said already
    lines += _morercpthosts(control)
    lines += _users(home)
    lines += _aliases(home)
    lines += instruction_troubles(home)
    lines += small_limits(home)
    lines += _access_rules(home)
    lines += _queue(home)
    lines += _certificates(home, control)
    lines += missing_lines(home)
    return lines


def _signing(home: str, control: Control) -> Iterator[str]:
    """Keys for DKIM, where there are any; the module that reads them is heavy."""
    if control.exists("domainkeys"):
        from pyqmail.admin.signing_check import signing_troubles

        yield from signing_troubles(home, control)


def _certificates(home: str, control: Control) -> Iterator[str]:
    """Certificates that end soon, are for other names, or that no server would show."""
    if not (control.exists("servercert.pem") or control.exists("servercerts")):
        return
    from pyqmail.admin import certificates  # the library that it needs is seldom wanted here

    try:
        found = certificates.installed(home)
    except OSError as error:
        yield f"control/servercerts: {error.strerror}"
        return
    if found and found[0].name:
        yield "control/servercert.pem: missing: without it no server offers TLS, whatever control/servercerts has"
    for each in found:
        shown = visible(os.fsencode(os.path.relpath(each.path, home)))
        names = [each.name] if each.name else [(control.me() or b"").decode("ascii", "replace").lower()]
        try:
            for one in each.read():
                yield from (f"{shown}: {what}" for what in certificates.complaints(one, names, certificates.today()))
            yield from (f"{shown}: {what}" for what in each.out_of_reach(read_accounts(home)))
        except OSError as error:
            yield f"{shown}: {error.strerror}"
        except ValueError as error:
            yield f"{shown}: {error}"
        except (AccountMissing, ControlUnreadable):
            return  # said already


def _queue(home: str) -> Iterator[str]:
    """Subdirectories of the queue that are missing or one too many."""
    try:
        layout = read_layout(home)
    except ControlUnreadable:
        return  # said already
    for name, missing in odd_directories(layout.queue, layout.split, todo_split=layout.todo_split):
        yield describe_odd(name, missing=missing, split=layout.split)


# Files against each other


def _names(home: str, control: Control) -> Iterator[str]:
    """The name of the host, without which much does not start."""
    me = control.me()
    if me is None:
        yield "control/me: missing: qmail-smtpd and qmail-remote fail for now; config-fast writes one"
    elif me and b"." not in me:
        yield f"control/me: {show_value(me)} is not a full name: other hosts may refuse it"


def _domains(home: str, control: Control) -> Iterator[str]:
    """Which domains are accepted, and where they go."""
    me = control.me()
    local_domains = control.lines("locals")
    local = [domain.lower() for domain in (local_domains if local_domains is not None else [me] if me else [])]
    virtual = control.mapping("virtualdomains") or {}
    accepted = control.lines("rcpthosts")
    for domain in sorted(set(local) & set(virtual)):
        yield f"control/virtualdomains: {show_value(domain)} is in locals too, so that its line here is never used"
    if accepted is None:
        yield "control/rcpthosts: missing: by SMTP only me and locals are accepted"
        return
    known = {domain.lower() for domain in accepted} | _more(control)
    for domain in (*local, *(key for key in virtual if b"@" not in key and virtual[key])):
        ends = [domain[dot:] for dot in range(len(domain)) if domain[dot : dot + 1] == b"."]
        if domain and domain != b"localhost" and not known & {domain, *ends}:
            yield f"control/rcpthosts: {show_value(domain)} is delivered here but not accepted by SMTP"


def _more(control: Control) -> set[bytes]:
    return {domain.lower() for domain in control.lines("morercpthosts") or ()}


def _concurrency(home: str, control: Control) -> Iterator[str]:
    """Numbers that are cut."""
    limit = read_knobs(home).spawn
    for name, default in (("concurrencylocal", 10), ("concurrencyremote", 20)):
        number = control.integer(name, default)
        if number > limit:
            yield f"control/{name}: {number} is above the limit of the spawners, {limit} (control/conf-spawn)"
        if number == 0:
            yield f"control/{name}: 0: nothing is delivered"


def _default_delivery(home: str, control: Control) -> Iterator[str]:
    """A Maildir without its slash is a file."""
    data = control.read("defaultdelivery")
    for line in (data or b"").split(b"\n"):
        if line[:1] in (b".", b"/") and line.rstrip().lower().endswith(b"maildir"):
            yield f"control/defaultdelivery: {show_value(line)}: without a / at its end it is an mbox file"
    if data is not None and not data.strip():
        yield "control/defaultdelivery: empty: users without a .qmail file get no mail"


def _morercpthosts(control: Control) -> Iterator[str]:
    """The database against its source."""
    times = {}
    for name in ("morercpthosts", "morercpthosts.cdb"):
        try:
            times[name] = os.stat(f"{control.directory}/{name}").st_mtime
        except OSError:
            continue
    if len(times) == 2 and times["morercpthosts"] > times["morercpthosts.cdb"]:
        yield "control/morercpthosts: newer than morercpthosts.cdb: run qmail-newmrh"
    if "morercpthosts" in times and len(times) == 1:
        yield "control/morercpthosts: has no effect before qmail-newmrh is run"
    if "morercpthosts.cdb" in times and not _whole_cdb(f"{control.directory}/morercpthosts.cdb"):
        yield "control/morercpthosts.cdb: damaged: qmail-smtpd answers 421 to everybody; run qmail-newmrh"


def _whole_cdb(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True  # said already
    try:
        Cdb(fd)
    except (CdbCorrupt, OSError):
        return False
    finally:
        os.close(fd)
    return True


def _access_rules(home: str) -> Iterator[str]:
    """The databases of tcpserver that run files name, against their sources."""
    named = {rules: path for path, text in run_texts(home) for rules in ACCESS_RULES.findall(text.replace("\\\n", " "))}
    for rules, path in sorted(named.items()):
        source = rules.removesuffix(".cdb")
        try:
            made = os.stat(rules).st_mtime
            if os.stat(source).st_mtime > made:
                yield f"{source}: newer than {rules}: run qmailctl cdb"
        except FileNotFoundError as error:
            if error.filename == rules:
                yield f"{rules}: missing: {path} makes tcpserver drop every connection; run qmailctl cdb"
        except OSError as error:
            yield f"{error.filename}: {error.strerror}"


# Users and aliases


def _users(home: str) -> Iterator[str]:
    """users/assign against users/cdb."""
    source, made = f"{home}/users/assign", f"{home}/users/cdb"
    if os.path.exists(made) and not _whole_cdb(made):
        yield "users/cdb: damaged: all local mail waits; run qmail-newu"
    try:
        with open(source, "rb") as file:
            list(parse_assign(file.read()))
        newer = os.stat(source).st_mtime > os.stat(made).st_mtime
    except AssignFormat:
        yield "users/assign: has a line without its fields, or no final dot: qmail-newu refuses it"
    except FileNotFoundError as error:
        if error.filename == made:
            yield "users/assign: has no effect before qmail-newu is run"
    except OSError as error:
        yield f"users/assign: {error.strerror}"
    else:
        if newer:
            yield "users/assign: newer than users/cdb: run qmail-newu"


def _aliases(home: str) -> Iterator[str]:
    """Mail that every host gets, and files that qmail-local refuses."""
    try:
        accounts = read_accounts(home)
        forbidden = read_knobs(home).patrn
        if accounts.single_user:
            return
        directory = pwd.getpwuid(accounts.uid_alias).pw_dir
    except (AccountMissing, ControlUnreadable) as trouble:
        yield str(trouble)
        return
    except KeyError:
        directory = f"{home}/alias"
    users = UsersDatabase(home, accounts)
    for name in NEEDED_ALIASES:
        if not _has_alias(users, directory, name):
            yield f"{directory}/.qmail-{name}: missing: mail for {name} bounces"
    try:
        found = sorted(entry.path for entry in os.scandir(directory) if entry.name.startswith(".qmail"))
    except OSError:
        return
    for path in found:
        try:
            status = os.stat(path)
        except OSError as error:
            yield f"{path}: {error.strerror}: it is not obeyed"
            continue
        mode = status.st_mode
        if mode & forbidden:
            yield f"{path}: mode {stat.S_IMODE(mode):04o}: writable by others, so that its mail waits"
        elif stat.S_ISREG(mode) and not mode & 0o004 and status.st_uid != accounts.uid_alias:
            yield f"{path}: mode {stat.S_IMODE(mode):04o}: alias cannot read it, so that its mail waits"


def _has_alias(users: UsersDatabase, directory: str, name: str) -> bool:
    """Whether mail for the system's ``name`` reaches somebody."""
    try:
        record = users.find(name.encode())
    except UsersTrouble:
        return True  # said already
    assignment = parse_assignment(record) if record is not None else None
    if assignment is not None and assignment.uid != 0:
        return True
    if name != "root" and assignment is None:
        try:
            if pwd.getpwnam(name).pw_uid != 0:
                return True
        except KeyError:
            pass
    return any(os.path.exists(f"{directory}/{file}") for file in (f".qmail-{name}", ".qmail-default"))
