"""The installed tree as a table: every path below the home with its owner, group and mode.

The same owners and modes as qmail's installer, with three differences. Programs are scripts, which an interpreter must
be able to read, so that 0711 becomes 0755; qmail-queue has no setuid bit; and run/ and lib/ are new.
"""

import shlex
from dataclasses import dataclass
from enum import Enum

from pyqmail.admin.catalogue import PROGRAMS
from pyqmail.launch import launcher_text
from pyqmail.spool.layout import DRAFTS

TCPTO_BYTES = 1024  # 64 records of 16 bytes


class Kind(Enum):
    """What a path is."""

    DIRECTORY = "directory"
    FILE = "file"
    FIFO = "fifo"


@dataclass(frozen=True, slots=True)
class Entry:
    """One path below the home. ``owner`` is a role; ``content`` None means that it is not compared.

    ``admins`` marks a file that is the admin's to edit: it is written when missing, and never again.
    """

    path: str
    kind: Kind
    owner: str
    mode: int
    content: bytes | None = None
    admins: bool = False


def directory(path: str, owner: str = "root", mode: int = 0o755) -> Entry:
    """A directory entry."""
    return Entry(path, Kind.DIRECTORY, owner, mode)


def private_entries(split: int) -> list[Entry]:
    """What only pyqmail keeps in a queue; also put into an adopted one.

    The group qmail passes through: what is to be known of a message is qmail-queue's to write and qmail-remote's to
    read, and nobody else's.
    """
    entries = [directory("queue/pyqmail", "qmails", 0o710), directory("queue/pyqmail/facts", "qmailq", 0o750)]
    entries.append(Entry("queue/pyqmail/remotelimits", Kind.FILE, "qmailr", 0o600))
    entries.append(directory("queue/pyqmail/transfers", "qmailq", 0o700))
    return entries + [directory(f"queue/pyqmail/facts/{number}", "qmailq", 0o750) for number in range(split)]


def draft_entries() -> list[Entry]:
    """Places that files without a name are made in (spool/draft), where that is quicker than in mess/."""
    entries = [directory("queue/pyqmail/drafts", "qmailq", 0o700)]
    return entries + [directory(f"queue/pyqmail/drafts/{number}", "qmailq", 0o700) for number in range(DRAFTS)]


def queue_entries(split: int) -> list[Entry]:
    """The queue. mess/ comes last: its presence says that a queue is whole."""
    entries = [directory("queue", "qmailq", 0o750)]
    for part, mode in (("pid", 0o700), ("intd", 0o700), ("todo", 0o750), ("lock", 0o750)):
        entries.append(directory(f"queue/{part}", "qmailq", mode))
    entries.append(directory("queue/bounce", "qmails", 0o700))
    entries += private_entries(split)
    entries += [
        Entry("queue/lock/sendmutex", Kind.FILE, "qmails", 0o600),
        Entry("queue/lock/trigger", Kind.FIFO, "qmails", 0o622),
        Entry("queue/lock/tcpto", Kind.FILE, "qmailr", 0o644),
    ]
    for part in ("info", "local", "remote", "mess"):
        owner, mode = ("qmailq", 0o750) if part == "mess" else ("qmails", 0o700)
        entries.append(directory(f"queue/{part}", owner, mode))
        entries += [directory(f"queue/{part}/{number}", owner, mode) for number in range(split)]
    return entries


def home_entries(home: str, library: str, python: str) -> list[Entry]:
    """Everything but the queue and the library; ``library`` is the package directory that launchers name."""
    entries = [directory("")]
    for name in ("control", "users", "bin", "boot", "doc", "lib", "man"):
        entries.append(directory(name))
    entries += [directory(f"man/{form}{section}") for form in ("man", "cat") for section in (1, 5, 7, 8)]
    entries.append(directory("alias", "alias", 0o2755))
    entries.append(directory("run", "qmailq"))
    entries.append(directory("run/send", "qmails", 0o700))
    entries.append(directory("run/incoming", "qmaild", 0o700))
    for name, program in PROGRAMS.items():
        text = launcher_text(program.module, program.crash_exit, python, library)
        entries.append(Entry(f"bin/{name}", Kind.FILE, "root", readable(program.mode), text.encode()))
    for name, instructions in boot_scripts().items():
        entries.append(Entry(f"boot/{name}", Kind.FILE, "root", 0o755, start_script(home, instructions)))
    entries.append(Entry("rc", Kind.FILE, "root", 0o755, rc_script(home), admins=True))
    return entries


def readable(mode: int) -> int:
    """``mode`` with read permission wherever there is execute permission: an interpreter reads what it runs."""
    return mode | (mode & 0o111) << 2


def boot_scripts() -> dict[str, str]:
    """Default delivery instructions by the name of the boot script that gives them."""
    scripts = {
        "home": "./Mailbox",
        "proc": "|preline procmail",
        "binm1": '|preline -f /usr/libexec/mail.local -r "${SENDER:-MAILER-DAEMON}" -d "$USER"',
        "binm2": '|preline -f /bin/mail -r "${SENDER:-MAILER-DAEMON}" -d "$USER"',
        "binm3": '|preline -f /bin/mail -f "${SENDER:-MAILER-DAEMON}" -d "$USER"',
    }
    return scripts | {f"{name}+df": f"|dot-forward .forward\n{text}" for name, text in scripts.items()}


def start_script(home: str, instructions: str) -> bytes:
    """A boot script: the delivery side in the foreground, its log to syslog."""
    return (
        "#!/bin/sh\n"
        "# Runs qmail in the foreground; the log goes to syslog.\n"
        "# The environment is emptied because every delivery inherits it.\n"
        f'exec env - PATH={shlex.quote(home + "/bin")}:"$PATH" \\\n'
        f"  qmail-start {shlex.quote(instructions)} splogger qmail\n"
    ).encode()


def rc_script(home: str) -> bytes:
    """HOME/rc: the same with what control/defaultdelivery says, its log to standard output."""
    return (
        "#!/bin/sh\n"
        "# Runs qmail in the foreground; the log goes to standard output.\n"
        "# control/defaultdelivery says what happens to mail of users without a .qmail file.\n"
        "# The environment is emptied because every delivery inherits it.\n"
        f"control={shlex.quote(home + '/control')}\n"
        'if [ -r "$control/defaultdelivery" ]; then\n'
        '  delivery=$(cat "$control/defaultdelivery")\n'
        "else\n"
        "  delivery=./Maildir/\n"
        "fi\n"
        f'exec env - PATH={shlex.quote(home + "/bin")}:"$PATH" \\\n'
        '  qmail-start "$delivery"\n'
    ).encode()
