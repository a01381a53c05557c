"""What has changed since the last sync: two small databases that are looked at first (qmail-accounts(8)).

    changes.cdb     exact assignments, as users/cdb has them, for each changed address and for its mailbox
    changed.cdb     where mail for it goes that is no mailbox; who is not in there is nobody

An address that has gone is in changes.cdb too: its mail is looked up in changed.cdb, and not found. A sync makes both
superfluous, and removes them; a qmail that does not know them sees the state of the last sync.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from pyqmail.admin.accounts import files
from pyqmail.admin.accounts.feed import ADDRESS, Feed, Fetch, Fields
from pyqmail.admin.accounts.mailboxes import make_mailboxes
from pyqmail.admin.accounts.records import FOLDER, STAR, Places, read_places
from pyqmail.admin.accounts.rows import Entry, Reading, Refusals, Refused, parse_address
from pyqmail.formats.assign import parse_assign, parse_record
from pyqmail.formats.cdb import Cdb, CdbCorrupt, replace_cdb, write_cdb
from pyqmail.login.account_settings import read_settings
from pyqmail.login.account_source import AccountSource
from pyqmail.policy.accounts import read_accounts
from pyqmail.policy.users import CHANGES
from pyqmail.system.files import LIST_MAX, open_read, read_file, unlink_if_present

CHANGED = FOLDER + "/changed.cdb"
CHANGES_MAX = 10_000  # records; with more it is time for a sync
Records = dict[bytes, bytes]


class TooMany(Exception):
    """More changes than are kept beside the files of a sync, or files of them that are damaged."""


def forget_changes(home: str) -> None:
    """Remove both databases. Raises OSError."""
    for path in (CHANGES, CHANGED):
        unlink_if_present(home + path)


def fetch_some(addresses: Sequence[bytes]) -> Fetch:
    """The fetch of these addresses, and of what their domains do with everybody else."""
    wanted = {address.decode("utf-8", "replace") for address in addresses}
    wanted |= {address[address.rfind("@") :] for address in wanted}

    def fetch(source: AccountSource) -> Iterator[tuple[bytes, Fields]]:
        for row in source.some(sorted(wanted)):
            yield ADDRESS, row

    return fetch


def apply(home: str, addresses: Sequence[bytes], say: Callable[[str], None]) -> None:
    """Put in force what the source says of ``addresses`` now. Raises TooMany, AccountsTrouble and OSError."""
    settings, accounts = read_settings(home), read_accounts(home)
    places = read_places(home, settings, accounts)
    os.umask(0o022)
    with files.locked(home):
        domains = files.read_state(home).domains
        reading = Reading(places.homes, domains, Refusals(say))
        with Feed(settings, accounts, fetch_some(addresses)) as source:
            rows = (fields for table, fields in source.rows() if table == ADDRESS)
            entries = {entry.address: entry for entry in reading.entries(rows)}
        assignments, forwards = _read(home + CHANGES), _read(home + CHANGED)
        for address in ours(addresses, domains):
            change(places, address, entries, assignments, forwards)
        for key in _of_the_admin(home):
            assignments.pop(key, None)
        if len(assignments) > CHANGES_MAX or len(forwards) > CHANGES_MAX:
            raise TooMany
        _write(home + CHANGED, forwards)
        _write(home + CHANGES, assignments)
        if not places.lmtp:
            found = [entry for entry in entries.values() if entry.home is not None]
            make_mailboxes(places, [(places.home_of(entry), entry.quota) for entry in found])


def ours(addresses: Iterable[bytes], domains: frozenset[bytes]) -> Iterator[bytes]:
    """Those of ``addresses`` that can be had here, and have a name."""
    for address in addresses:
        try:
            if parse_address(address, domains)[0]:
                yield address
        except Refused:
            continue


def change(places: Places, address: bytes, entries: dict[bytes, Entry], assigned: Records, forwards: Records) -> None:
    """Note in ``assigned`` and ``forwards`` what ``address`` is now."""
    name, _, domain = address.rpartition(b"@")
    entry = entries.get(address)
    others = entries.get(b"@" + domain)
    if entry is None and others is not None:
        entry = replace(others, name=name)  # nobody, whose mail somebody has
    key = b":" + STAR + address
    forwards.pop(key, None)
    lines = [places.changed_line(address)]
    if entry is not None:
        forward, own = places.forward(entry), places.line(entry)
        if forward is not None:
            forwards[key] = forward[1]
            lines += [own] if own else []
        elif own:
            lines = [own]
    assigned.update(parse_record(line.rstrip(b"\n")) for line in lines)


def _of_the_admin(home: str) -> Iterator[bytes]:
    """The keys of users/assign, whose lines come before any account."""
    try:
        yield from (key for key, _ in parse_assign(read_file(f"{home}/users/assign", LIST_MAX)))
    except FileNotFoundError:
        return


def _read(path: str) -> Records:
    """The records of a database of changes; none where there is none yet. Raises TooMany and OSError."""
    try:
        fd = open_read(path)
    except FileNotFoundError:
        return {}
    try:
        return dict(Cdb(fd).records())
    except CdbCorrupt:
        raise TooMany from None
    finally:
        os.close(fd)


def _write(path: str, records: Records) -> None:
    write_cdb(path + files.NEW, records.items())
    os.chmod(path + files.NEW, 0o644)
    replace_cdb(path + files.NEW, path)
