"""The lines of users/assign and the forwarding records that an account becomes (qmail-users(5), fastforward(1)).

Mail for NAME at DOMAIN is local as DOMAIN-NAME, by a line of control/virtualdomains, and then:

    =DOMAIN-NAME:owner:UID:GID:HOMES/HOME:::QUOTA      a mailbox: the default delivery in its directory
    =DOMAIN-NAME/mailbox:...                           the same where copies go elsewhere: a name that nobody can have
    +DOMAIN-:alias:UID:GID:users/accounts:-:*:         all others: .qmail-default there looks *NAME@DOMAIN up

The star keeps fastforward from expanding a target by the same database: what an address becomes is looked up when its
mail comes, in the newest files. With `delivery: lmtp:PATH` a mailbox is the directory users/accounts/lmtp, whose
.qmail-default hands NAME@DOMAIN to that server.
"""

import os
import pwd
import re
from dataclasses import dataclass

from pyqmail.admin.accounts.rows import Entry
from pyqmail.login.account_settings import AccountSettings, AccountsTrouble
from pyqmail.policy.accounts import Accounts

FOLDER = "/users/accounts"  # below the home
FORWARDS = FOLDER + "/forwards.cdb"
STAR = b"*"
MAILBOX = b"/mailbox"
OWNER = "vmail"
LMTP = "lmtp:"
_PLACE = re.compile(r"[\w/.:\[\]-]+", re.ASCII)
Record = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Places:
    """Whose the mailboxes are, and where everything lies."""

    owner: bytes
    uid: int
    gid: int
    homes: bytes  # the directory of all mailboxes
    lmtp: str  # the server that has them instead; empty: none
    alias: bytes
    alias_uid: int
    alias_gid: int
    folder: bytes  # FOLDER of this home
    programs: str  # bin/ of this home

    def domain_line(self, domain: bytes) -> bytes:
        """The wildcard for everything else at ``domain``."""
        return b"+%b-:%b:%d:%d:%b:-:%b:\n" % (
            domain, self.alias, self.alias_uid, self.alias_gid, self.folder, STAR,
        )  # fmt: skip

    def line(self, entry: Entry) -> bytes:
        """The line for the mailbox of ``entry``; empty where it has none."""
        if entry.home is None:
            return b""
        local = entry.domain + b"-" + entry.name + (MAILBOX if _elsewhere(entry) else b"")
        if self.lmtp:
            return b"=%b:%b:%d:%d:%b/lmtp:-:%b:\n" % (
                local, self.alias, self.alias_uid, self.alias_gid, self.folder, entry.name,
            )  # fmt: skip
        return b"=%b:%b:%d:%d:%b:::%b\n" % (
            local, self.owner, self.uid, self.gid, self.home_of(entry), entry.quota,
        )  # fmt: skip

    def home_of(self, entry: Entry) -> bytes:
        """The directory of its mailbox."""
        return self.homes + b"/" + (entry.home or b"")

    def changed_line(self, address: bytes) -> bytes:
        """The line that has ``address`` looked up in changed.cdb."""
        name, _, domain = address.rpartition(b"@")
        return b"=%b-%b:%b:%d:%d:%b/changed:-:%b%b:\n" % (
            domain, name, self.alias, self.alias_uid, self.alias_gid, self.folder, STAR, name,
        )  # fmt: skip

    def forward(self, entry: Entry) -> Record | None:
        """The record that sends mail for ``entry`` on; None where it just stays here."""
        if not _elsewhere(entry):
            return None
        targets = [target for target in entry.targets if target.lower() != entry.address]
        if len(targets) < len(entry.targets):
            targets.append(entry.name + MAILBOX + b"@" + entry.domain)
        key = b":" + (STAR if entry.name else b"") + entry.address
        return key, b"".join(b"&" + target + b"\0" for target in targets)

    def default_files(self) -> list[tuple[str, str]]:
        """The .qmail-default files below the folder, each with its one line."""
        forward = f"|{self.programs}/fastforward -d {os.fsdecode(self.folder)}"
        found = [("", f"{forward}/forwards.cdb\n"), ("changed/", f"{forward}/changed.cdb\n")]
        if self.lmtp:
            found.append(("lmtp/", f'|{self.programs}/qmail-lmtp {self.lmtp} "$DEFAULT@$HOST"\n'))
        return found


def _elsewhere(entry: Entry) -> bool:
    """Whether anybody else than its own mailbox gets the mail, or that does not."""
    return any(target.lower() != entry.address for target in entry.targets)


def read_places(home: str, settings: AccountSettings, accounts: Accounts) -> Places:
    """The places that ``settings`` name. Raises AccountsTrouble."""
    if accounts.single_user:
        owner, uid, gid = "owner", os.geteuid(), os.getegid()
    else:
        owner = settings.get("owner", OWNER)
        try:
            found = pwd.getpwnam(owner)
        except KeyError:
            raise AccountsTrouble(f"control/accounts: owner: no account {owner}") from None
        uid, gid = found.pw_uid, found.pw_gid
        if uid == 0:
            raise AccountsTrouble("control/accounts: owner: mailboxes cannot be root's")
    homes = settings.get("homes", f"{home}/homes").rstrip("/")
    if not homes.startswith("/") or any(sign in homes for sign in ":\0\n"):
        raise AccountsTrouble("control/accounts: homes is no absolute path without a colon")
    delivery = settings.get("delivery")
    if delivery and not (delivery.startswith(LMTP) and _PLACE.fullmatch(delivery.removeprefix(LMTP))):
        raise AccountsTrouble("control/accounts: delivery is lmtp:PATH or lmtp:ADDRESS:PORT")
    return Places(
        os.fsencode(owner), uid, gid, os.fsencode(homes), delivery.removeprefix(LMTP), accounts.alias_name,
        accounts.uid_alias, accounts.gid_qmail, os.fsencode(home + FOLDER), f"{home}/bin",
    )  # fmt: skip
