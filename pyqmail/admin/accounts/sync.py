"""One whole sync: everything that the source says, compiled, and put in force (qmail-accounts(8)).

    source -> new files -> is it plausible? -> users/cdb -> virtualdomains, HUP -> rcpthosts -> Maildirs

Until the new files are whole nothing has changed; where the source goes away meanwhile the last state stays. A sync
that is killed in between is made good by the next one.
"""

import os
from collections.abc import Callable, Iterator

from pyqmail.admin.accounts import feed, files, routing
from pyqmail.admin.accounts.changes import forget_changes
from pyqmail.admin.accounts.feed import Feed, Fields
from pyqmail.admin.accounts.mailboxes import all_mailboxes, make_mailboxes
from pyqmail.admin.accounts.records import FOLDER, Places, read_places
from pyqmail.admin.accounts.rows import Reading, Refusals, parse_domains
from pyqmail.admin.accounts.senders import write_senders
from pyqmail.admin.databases import make_users
from pyqmail.control import Control
from pyqmail.incoming.own_sender import SENDERS
from pyqmail.login.account_settings import AccountsTrouble, read_settings
from pyqmail.policy.accounts import read_accounts

Say = Callable[[str], None]


class Implausible(AccountsTrouble):
    """The source says so little that the last state stays."""


class Tables:
    """The rows of a feed, one table after another; ``refusals`` hears of those that were none."""

    def __init__(self, rows: Iterator[tuple[bytes, Fields]], refusals: Refusals) -> None:
        self._rows = rows
        self._refusals = refusals
        self._next: tuple[bytes, Fields] | None = None

    def of(self, table: bytes) -> Iterator[Fields]:
        """The rows of ``table``, if that is the next one. Raises AccountsTrouble."""
        while True:
            found = self._next or next(self._rows, None)
            self._next = None
            if found is None:
                return
            if found[0] == feed.ODD:
                self._refusals.add(found[1][0], "it has a NUL or a line end, or is too long")
            elif found[0] == table:
                yield found[1]
            else:
                self._next = found
                return

    def end(self) -> None:
        """Take what is left: a table that is out of its place. Raises AccountsTrouble."""
        for _ in self.of(b""):
            pass
        if self._next is not None:
            raise AccountsTrouble("the tables of accounts are out of order")


def sync(home: str, say: Say, *, force: bool = False) -> files.State:
    """Bring this node to what the source says; what that was. ``say`` hears a line about each row left out.

    Raises AccountsTrouble (Implausible unless ``force``), NotMade, and what reading control files and OSError are.
    """
    settings, accounts = read_settings(home), read_accounts(home)
    places = read_places(home, settings, accounts)
    os.umask(0o022)
    os.makedirs(home + FOLDER, exist_ok=True)
    with files.locked(home):
        before = files.read_state(home)
        files.prepare(home, places)
        refusals = Refusals(say)
        with Feed(settings, accounts) as source:
            state = compile_new(home, places, Tables(source.rows(), refusals), refusals, before)
        refusals.end()
        missing = state.missing(before)
        if missing and not force:
            raise Implausible(f"only {missing}: the last state stays; `qmail-accounts sync --force` takes the new one")
        take(home, state, before)
        if not make_mailboxes(places, all_mailboxes(home)):
            say("not all Maildirs could be made; mail for those waits")
    return state


def compile_new(home: str, places: Places, tables: Tables, refusals: Refusals, before: files.State) -> files.State:
    """Write the new files from all tables, beside those in force. Raises AccountsTrouble and OSError."""
    locals_ = frozenset(name.lower() for name in Control(home).lines("locals") or ())
    domains = parse_domains(tables.of(feed.DOMAIN), locals_ | routing.taken(home, before.domains), refusals)
    reading = Reading(places.homes, domains, refusals)
    files.write_new(home, places, domains, reading.entries(tables.of(feed.ADDRESS)))
    senders = write_senders(home + SENDERS + files.NEW, tables.of(feed.SENDER), refusals)
    tables.end()
    return files.State(reading.users, reading.aliases, senders, domains)


def take(home: str, state: files.State, before: files.State) -> None:
    """Put the new files in force. Raises NotMade and OSError.

    The state is written before a domain is ours, and again when those that have gone are: a line of ours is known as
    such whenever this ends.
    """
    files.write_state(home, files.State(state.users, state.aliases, state.senders, state.domains | before.domains))
    files.take_new(home)
    make_users(home)
    forget_changes(home)
    routing.set_domains(home, state.domains, before.domains)
    files.write_state(home, state)
