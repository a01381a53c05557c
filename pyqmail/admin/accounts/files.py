"""What a sync writes below users/accounts, and the state that it leaves for the next one (qmail-accounts(8)).

    assign          lines of users/assign, which qmail-newu puts behind that file's own
    forwards.cdb    where mail of other names goes
    senders.cdb     who may send as whom
    state           what the last sync found: counts, then its domains, a line each
    .qmail-default  hands mail over to forwards.cdb

New files are whole and synced before any takes the place of an old one.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyqmail.admin.accounts.records import FOLDER, FORWARDS, Places, Record
from pyqmail.admin.accounts.rows import Entry
from pyqmail.formats.cdb import write_cdb
from pyqmail.incoming.own_sender import SENDERS
from pyqmail.login.account_settings import AccountsTrouble
from pyqmail.system import files

ASSIGN = FOLDER + "/assign"
STATE = FOLDER + "/state"
LOCK = FOLDER + "/lock"
NEW = ".new"


@dataclass(frozen=True, slots=True)
class State:
    """What a sync found."""

    users: int
    aliases: int
    senders: int
    domains: frozenset[bytes]

    def format(self) -> bytes:
        """The bytes of the file."""
        counts = b"users %d aliases %d senders %d\n" % (self.users, self.aliases, self.senders)
        return counts + b"".join(domain + b"\n" for domain in sorted(self.domains))

    def missing(self, before: "State") -> str:
        """What is less than half of what was there ``before``; empty if nothing is."""
        counts = {
            "domains": (len(before.domains), len(self.domains)),
            "users": (before.users, self.users),
            "aliases": (before.aliases, self.aliases),
            "senders": (before.senders, self.senders),
        }
        return ", ".join(f"{new} {name} after {old}" for name, (old, new) in counts.items() if 2 * new < old)


def parse_state(data: bytes) -> State:
    """The state in the bytes of a file. Raises ValueError."""
    first, *domains = data.decode("ascii").splitlines()
    words = first.split()
    if words[::2] != ["users", "aliases", "senders"]:
        raise ValueError
    users, aliases, senders = (int(word) for word in words[1::2])
    return State(users, aliases, senders, frozenset(domain.encode() for domain in domains))


def read_state(home: str) -> State:
    """What the last sync found; nothing before the first. Raises AccountsTrouble and OSError."""
    try:
        return parse_state(files.read_file(home + STATE))
    except FileNotFoundError:
        return State(0, 0, 0, frozenset())
    except (ValueError, IndexError):
        raise AccountsTrouble("users/accounts/state is damaged: remove it, and look at control/rcpthosts") from None


@contextmanager
def locked(home: str) -> Iterator[None]:
    """One process at a time that writes here. Raises OSError."""
    fd = os.open(home + LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def prepare(home: str, places: Places) -> None:
    """Make the directories that everybody may enter, and their .qmail-default files. Raises OSError."""
    for name, text in places.default_files():
        folder = f"{home}{FOLDER}/{name}"
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o755)
        path = f"{folder}.qmail-default"
        if not os.path.exists(path) or files.read_file(path) != text.encode():
            files.replace_file(path + NEW, path, text.encode())


def write_new(home: str, places: Places, domains: Iterable[bytes], entries: Iterable[Entry]) -> None:
    """Write the new assign and forwards.cdb beside the old ones, in one pass. Raises OSError."""

    def records() -> Iterator[Record]:
        for entry in entries:
            assign.write(places.line(entry))
            record = places.forward(entry)
            if record is not None:
                yield record

    path = home + ASSIGN + NEW
    with open(path, "wb", 1 << 20) as assign:
        assign.writelines(places.domain_line(domain) for domain in sorted(domains))
        write_cdb(home + FORWARDS + NEW, records())
        assign.flush()
        files.sync(assign.fileno())
    for written in (path, home + FORWARDS + NEW):
        os.chmod(written, 0o644)  # everybody's, whatever the umask


def take_new(home: str) -> None:
    """Put the new files in the place of the old ones. Raises OSError."""
    for path in (FORWARDS, SENDERS, ASSIGN):
        files.rename(home + path + NEW, home + path)
    files.sync_directory(home + FOLDER)


def write_state(home: str, state: State) -> None:
    """Leave ``state`` to the next sync. Raises OSError."""
    files.replace_file(home + STATE + NEW, home + STATE, state.format())
