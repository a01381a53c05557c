"""What would keep mail from being signed, or give a key away: qmail-showctl --check."""

import os
import stat
from collections.abc import Iterator

from pyqmail.control import Control
from pyqmail.mailauth.key_files import KeyFileUnusable, key_names, read_key
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts


def signing_troubles(home: str, control: Control) -> Iterator[str]:
    """Keys of no use, keys that qmail-remote cannot read, and keys that others than root may change."""
    top = f"{control.directory}/domainkeys"
    try:
        accounts = read_accounts(home)
    except AccountMissing:
        return  # said already
    for domain in sorted(os.listdir(top)):
        shown = f"control/domainkeys/{domain}"
        if not os.path.isdir(f"{top}/{domain}"):
            yield f"{shown}: is not a directory of keys: mail of such a domain waits"
            continue
        if domain != domain.lower():
            yield f"{shown}: is not in lower case: it signs nothing"
        yield from _place(f"{top}/{domain}", shown, accounts, 0o050)
        try:
            names = key_names(f"{top}/{domain}")
        except KeyFileUnusable as error:
            yield f"control/domainkeys/{error.place}: {error.why}: mail of this domain waits"
            continue
        for name in names:
            yield from _key(f"{top}/{domain}/{name}", domain, f"{shown}/{name}", accounts)


def _key(path: str, domain: str, shown: str, accounts: Accounts) -> Iterator[str]:
    try:
        read_key(path, os.fsencode(domain), os.path.basename(path))
    except KeyFileUnusable as error:
        yield f"{shown}: {error.why}: mail of this domain waits"
        return
    yield from _place(path, shown, accounts, 0o040)


def _place(path: str, shown: str, accounts: Accounts, needed: int) -> Iterator[str]:
    """``needed`` are the bits of the group qmail, which qmail-remote is in."""
    found = os.stat(path)
    for_group = found.st_gid == accounts.gid_qmail and found.st_mode & needed == needed
    if not for_group and found.st_uid != accounts.uid_remote and found.st_mode & needed >> 3 != needed >> 3:
        yield f"{shown}: qmail-remote cannot read it, and mail of this domain waits: chgrp qmail, chmod g+rX"
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        yield f"{shown}: mode {mode:04o}: others than its owner may change it"
