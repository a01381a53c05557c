"""What in a configuration would bite: qmail-showctl --check, and the memory limits also for qmail-setup --check.

Each finding is one line that names the file and says what happens because of it. Nothing is changed.
"""

import difflib
import os
import pwd
import re
import stat
from collections.abc import Iterator

from pyqmail.admin.control_files import BY_NAME, ControlFile, Form
from pyqmail.admin.instructions import instruction_troubles
from pyqmail.admin.limits import run_texts, small_limits
from pyqmail.admin.supervision import missing_lines
from pyqmail.control import Control, ControlUnreadable, parse_integer, parse_line, parse_lines, read_knobs
from pyqmail.formats.assign import AssignFormat, parse_assign
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.policy.users import UsersDatabase, UsersTrouble, parse_assignment
from pyqmail.remote.routes import parse_route
from pyqmail.spool.layout import read_layout
from pyqmail.spool.split import describe_odd, odd_directories

NEEDED_ALIASES = ("postmaster", "mailer-daemon", "root")  # RFC 5321 section 4.5.1, qmail-send's bounces, cron
EMPTY_BITES = {
    "locals": "empty: nothing is local, not even me",
    "rcpthosts": "empty: no domain at all is accepted by SMTP",
    "me": "empty: the host has no name",
    "smtpgreeting": "empty: the greeting names no host",
    "helohost": "empty: HELO names no host",
}
WILDCARDS = {
    "locals": "there are no wildcards here: virtualdomains has them",
    "rcpthosts": ".example.org is all below example.org",
    "morercpthosts": ".example.org is all below example.org",
    "virtualdomains": ".example.org is all below example.org, and an empty name everything",
    "smtproutes": ".example.org is all below example.org, and an empty name everything",
    "badmailfrom": "@example.org is everybody there",
}
ACCESS_RULES = re.compile(r"\btcpserver\b[^\n]*?\s-x\s*(/\S+\.cdb)\b")
EDITORS_LEFTOVERS = ("~", ".bak", ".swp", ".orig", ".dpkg-old", ".dpkg-new", ".rpmsave", ".tmp")


def find_trouble(home: str) -> list[str]:
    """Every finding for the tree ``home``, a line each."""
    control = Control(home)
    try:
        names = sorted(os.listdir(control.directory))
    except OSError as error:
        return [f"control: {error.strerror}: no program can start"]
    lines = list(_modes(control, names))
    for name in names:
        lines += _unknown(name) if name not in BY_NAME else _syntax(control, BY_NAME[name])
    for find in (_names, _domains, _routes, _concurrency, _default_delivery):
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
        shown = os.path.relpath(each.path, home)
        names = [each.name] if each.name else [(control.me() or b"").decode("ascii", "replace").lower()]
        try:
            for one in each.read():
                yield from (f"{shown}: {what}" for what in certificates.complaints(one, names, certificates.today()))
        except (ValueError, OSError) as error:
            yield f"{shown}: {error}"


def _queue(home: str) -> Iterator[str]:
    """Subdirectories of the queue that are missing or one too many."""
    try:
        layout = read_layout(home)
    except ControlUnreadable:
        return  # said already
    for name, missing in odd_directories(layout.queue, layout.split, todo_split=layout.todo_split):
        yield describe_odd(name, missing=missing, split=layout.split)


# One file


def _modes(control: Control, names: list[str]) -> Iterator[str]:
    """Files that a program cannot read, or that others may write."""
    for name in ["", *names]:
        path = f"{control.directory}/{name}".rstrip("/")
        shown = f"control/{name}".rstrip("/")
        try:
            status = os.stat(path)
        except OSError as error:
            yield f"{shown}: {error.strerror}: the programs that read it fail for now"
            continue
        form = BY_NAME[name].form if name in BY_NAME else None
        if name == "servercert.pem":
            continue  # for its own user only: _certificates looks at it
        needed = 0o555 if not name or form is Form.DIRECTORY else 0o444
        if status.st_mode & needed != needed and name in ("", *BY_NAME):
            yield f"{shown}: mode {stat.S_IMODE(status.st_mode):04o}: not every program can read it, and those fail"
        if status.st_mode & 0o022:
            yield f"{shown}: mode {stat.S_IMODE(status.st_mode):04o}: others than its owner may change it"
        if form is not None and form is not Form.DIRECTORY and not stat.S_ISREG(status.st_mode):
            yield f"{shown}: is not a file: the programs that read it fail for now"


def _unknown(name: str) -> Iterator[str]:
    """A name that no program asks for."""
    if name.endswith(EDITORS_LEFTOVERS):
        yield f"control/{name}: no program reads it (left over by an editor?)"
        return
    near = difflib.get_close_matches(name, BY_NAME, 1, 0.75)
    yield f"control/{name}: no program reads it" + (f"; did you mean {near[0]}?" if near else "")


def _syntax(control: Control, entry: ControlFile) -> Iterator[str]:
    """Bytes that do not mean what they seem to mean."""
    shown = f"control/{entry.name}"
    if entry.form in (Form.PEM, Form.DIRECTORY):
        return
    try:
        data = control.read(entry.name)
    except ControlUnreadable as trouble:
        yield f"{trouble}: the programs that read it fail for now"
        return
    if data is None or entry.form is Form.CDB:
        return
    if b"\r" in data:
        yield f"{shown}: has CR at line ends (edited under DOS?): they are part of the values, and nothing matches"
    if b"\0" in data:
        yield f"{shown}: has NUL bytes"
    if entry.name == "defaultdelivery":
        return
    if entry.form in (Form.LIST, Form.MAP):
        yield from _list_syntax(shown, entry, data)
    else:
        yield from _line_syntax(shown, entry, data)
    if not data.strip() and entry.name in EMPTY_BITES:
        yield f"{shown}: {EMPTY_BITES[entry.name]}"


def _line_syntax(shown: str, entry: ControlFile, data: bytes) -> Iterator[str]:
    value = parse_line(data)
    if entry.form is Form.INTEGER:
        number = parse_integer(data)
        if number is None:
            yield f"{shown}: does not start with a number: the default, {entry.default}, counts"
        elif b"%d" % number != value:
            yield f"{shown}: {_show(value)} counts as {number}"
    elif value.startswith(b"#"):
        yield f"{shown}: a # is part of the value in a one-line file"
    elif value[:1] in (b" ", b"\t") or (b" " in value and entry.name not in ("smtpgreeting", "bouncefrom")):
        yield f"{shown}: has blanks in its value"
    if any(line.strip() and not line.startswith(b"#") for line in data.split(b"\n")[1:]):
        yield f"{shown}: only the first line counts"


def _list_syntax(shown: str, entry: ControlFile, data: bytes) -> Iterator[str]:
    seen: dict[bytes, bytes] = {}
    for value in parse_lines(data):
        key, colon, rest = value.partition(b":")
        if value[:1] in (b" ", b"\t"):
            yield f"{shown}: {_show(value)}: starts with a blank, which is part of it"
        elif b"#" in value or (b" " in value and entry.name != "dnsservers"):
            yield f"{shown}: {_show(value)}: a comment after a value is part of it"
        elif entry.form is Form.MAP and not colon:
            yield f"{shown}: {_show(value)}: has no colon, so that it is ignored"
        elif entry.form is Form.LIST and b"@" in value and entry.name not in ("badmailfrom", "dnsservers"):
            yield f"{shown}: {_show(value)}: is an address, where domains stand"
        elif b"*" in key and entry.name in WILDCARDS:
            yield f"{shown}: {_show(key)}: a * stands for itself: {WILDCARDS[entry.name]}"
        elif key.startswith(b".") and entry.name == "locals":
            yield f"{shown}: {_show(key)}: there are no wildcards here: virtualdomains has them"
        what = key.lower() if entry.form is Form.MAP else value.lower()
        if entry.form is Form.MAP and what in seen and seen[what] != rest:
            yield f"{shown}: {_show(key)}: stands there twice, and the last line wins"
        seen[what] = rest


def _show(value: bytes) -> str:
    return repr(value.decode("ascii", "backslashreplace"))


# Files against each other


def _names(home: str, control: Control) -> Iterator[str]:
    """The name of the host, without which much does not start."""
    me = control.me()
    if me is None:
        yield "control/me: missing: qmail-smtpd and qmail-remote fail for now; config-fast writes one"
    elif me and b"." not in me:
        yield f"control/me: {_show(me)} is not a full name: other hosts may refuse it"


def _domains(home: str, control: Control) -> Iterator[str]:
    """Which domains are accepted, and where they go."""
    me = control.me()
    local_domains = control.lines("locals")
    local = [domain.lower() for domain in (local_domains if local_domains is not None else [me] if me else [])]
    virtual = control.mapping("virtualdomains") or {}
    accepted = control.lines("rcpthosts")
    for domain in sorted(set(local) & set(virtual)):
        yield f"control/virtualdomains: {_show(domain)} is in locals too, so that its line here is never used"
    if accepted is None:
        yield "control/rcpthosts: missing: by SMTP only me and locals are accepted"
        return
    known = {domain.lower() for domain in accepted} | _more(control)
    for domain in (*local, *(key for key in virtual if b"@" not in key and virtual[key])):
        ends = [domain[dot:] for dot in range(len(domain)) if domain[dot : dot + 1] == b"."]
        if domain and domain != b"localhost" and not known & {domain, *ends}:
            yield f"control/rcpthosts: {_show(domain)} is delivered here but not accepted by SMTP"


def _more(control: Control) -> set[bytes]:
    return {domain.lower() for domain in control.lines("morercpthosts") or ()}


def _routes(home: str, control: Control) -> Iterator[str]:
    """Routes to nowhere."""
    for key, value in (control.mapping("smtproutes") or {}).items():
        route = parse_route(value)
        if route is not None and (not route.relay or route.port == 0):
            what = "names no host" if not route.relay else "has no usable port"
            yield f"control/smtproutes: the route for {_show(key)} {what}"


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
            yield f"control/defaultdelivery: {_show(line)}: without a / at its end it is an mbox file"
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
