"""Maildirs and quotas of accounts, made by a process that is their owner (qmail-accounts(8)).

They come last: mail for a mailbox that is not there yet waits. Nothing is ever taken away.
"""

import os
from collections.abc import Iterable, Iterator

from pyqmail.admin.accounts.files import ASSIGN
from pyqmail.admin.accounts.records import Places
from pyqmail.admin.virtual_domains import make_maildir
from pyqmail.mailbox.quota import MaildirQuota, parse_limit
from pyqmail.system.process import become, fork_child

Mailbox = tuple[bytes, bytes]  # its directory, and a quota or nothing
MODE = 0o755  # of the directory of all homes


def make_mailboxes(places: Places, mailboxes: Iterable[Mailbox]) -> bool:
    """Make what is missing of ``mailboxes``; whether all of it is there now.

    Raises OSError where the directory of homes cannot be made.
    """
    if places.lmtp:
        return True
    try:
        os.mkdir(places.homes, MODE)
    except FileExistsError:
        pass
    else:
        os.chmod(places.homes, MODE)
        if os.geteuid() == 0:
            os.chown(places.homes, places.uid, places.gid)

    def prepare() -> None:
        if os.geteuid() == 0:
            become(places.uid, places.gid, [places.gid])
        os.umask(0o077)

    pid = fork_child(prepare, lambda: _make_all(mailboxes))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def all_mailboxes(home: str) -> Iterator[Mailbox]:
    """Each mailbox in the file that the last sync has written."""
    with open(home + ASSIGN, "rb") as file:
        for line in file:
            if line.startswith(b"="):
                fields = line.rstrip(b"\n").split(b":")
                yield fields[4], fields[7]


def _make_all(mailboxes: Iterable[Mailbox]) -> int:
    failed = 0
    for path, quota in mailboxes:
        try:
            make_mailbox(path, quota)
        except OSError:
            failed = 1
    return failed


def make_mailbox(path: bytes, quota: bytes) -> None:
    """The Maildir in ``path``, with ``quota`` if it has one. Raises OSError."""
    maildir = path + b"/Maildir/"
    if not os.path.isdir(maildir + b"new"):
        os.makedirs(path, 0o700, exist_ok=True)
        make_maildir(path)
    limit = parse_limit(quota) if quota else None
    if limit is not None:
        MaildirQuota(maildir, limit).set_limit()
