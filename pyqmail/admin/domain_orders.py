"""What is ordered of virtual domains (qmail-vuser(8)): add and remove one, its default, who is in it."""

import fcntl
import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pyqmail.admin.databases import make, make_users
from pyqmail.admin.virtual_domains import (
    Domain,
    Domains,
    Instructions,
    VuserTrouble,
    as_owner,
    check_targets,
    name_of,
    read_instructions,
    write_instructions,
)
from pyqmail.local.outlook import Outlook
from pyqmail.local.suspicions import LOOPS
from pyqmail.login.virtual_users import VirtualUser, read_users, write_users
from pyqmail.policy.accounts import read_accounts
from pyqmail.send.controls import read_controls
from pyqmail.system import files

OWNER = b"vmail"
DEFAULT = b".qmail-default"
RELOAD = "qmail-vuser: tell qmail-send: qmailctl reload, or signal HUP\n"


@contextmanager
def locked(home: str) -> Iterator[None]:
    """One qmail-vuser at a time. Raises OSError."""
    fd = os.open(f"{home}/users/virtual.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def domains_of(home: str) -> Domains:
    """The virtual domains of ``home``, whose changes make users/cdb anew."""
    return Domains(home, lambda: make("qmail-newu", lambda: make_users(home)) == 0)


def must_not_loop(home: str, domain: Domain, file: bytes, instructions: Instructions) -> None:
    """Refuse ``instructions`` by which mail would come back to ``file`` of the domain. Raises VuserTrouble."""
    routing = read_controls(home).routing
    proposed = {domain.home + b"/" + file: instructions.format()}
    outlook = Outlook(home, read_accounts(home), routing, proposed)
    for target in instructions.targets:
        for wrong in outlook.follow(target):
            if wrong.text.startswith(LOOPS):
                keeps = "; the mailbox has its copy anyway" if instructions.mailbox is not None else ""
                raise VuserTrouble(f"{os.fsdecode(target)}: mail {wrong.text}{keeps}")


class DomainOrders:
    """Each method is a word of the command line. All raise VuserTrouble, VirtualUnreadable, OSError."""

    def __init__(self, home: str, *, mail: bool = False) -> None:
        """``mail``: what is removed goes with its mail."""
        self.home = home
        self.domains = domains_of(home)
        self._mail = mail

    def add_domain(self, words: list[bytes]) -> None:
        """A domain whose mail is for virtual users."""
        name, user = words[0].lower(), words[1] if len(words) > 1 else OWNER
        if read_accounts(self.home).single_user:
            user, uid, gid = b"owner", os.geteuid(), os.getegid()
        else:
            uid, gid = _account(user)
        with locked(self.home):
            self.domains.add(name, user, uid, gid)
        _say(RELOAD)

    def remove_domain(self, words: list[bytes]) -> None:
        """Take a domain and its users away; the mail only if asked for."""
        with locked(self.home):
            domain = self.domains.get(words[0].lower())
            users = read_users(self.home)
            left = {each: user for each, user in users.items() if not each.endswith(b"@" + domain.name)}
            write_users(self.home, left)
            self.domains.remove(domain, mail=self._mail)
        _say(RELOAD)

    def default(self, words: list[bytes]) -> None:
        """Where mail for names that nobody has goes; without targets it is refused."""
        domain = self.domains.get(words[0].lower())
        check_targets(words[1:])

        def change() -> None:
            if words[1:]:
                write_instructions(DEFAULT, Instructions(None, words[1:]))
            else:
                files.unlink_if_present(DEFAULT)

        with locked(self.home):
            must_not_loop(self.home, domain, DEFAULT, Instructions(None, words[1:]))
            as_owner(domain, change)

    def list(self, words: Sequence[bytes]) -> None:
        """Everybody in a domain, or in all."""
        domains = [self.domains.get(words[0].lower())] if words else list(self.domains.all().values())
        users = read_users(self.home)
        for domain in domains:
            _say(f"{os.fsdecode(domain.name)}\tdomain\t{os.fsdecode(domain.home)}\n")
            for file in sorted(entry for entry in os.listdir(domain.home) if entry.startswith(b".qmail-")):
                if file.endswith(b".new"):
                    continue
                _say(self._line(domain, file, users))

    def _line(self, domain: Domain, file: bytes, users: Mapping[bytes, VirtualUser]) -> str:
        instructions = read_instructions(domain, file) or Instructions(None, [])
        address = name_of(file) + b"@" + domain.name
        if file == DEFAULT:
            kind = "default"
        elif instructions.mailbox is None:
            kind = "alias"
        else:
            kind = "mailbox" if address in users else "mailbox without password"
        return os.fsdecode(b"\t".join([address, kind.encode(), b" ".join(instructions.targets)])) + "\n"


def _account(user: bytes) -> tuple[int, int]:
    """The ids of the account that owns a domain's mail. Raises VuserTrouble."""
    name = os.fsdecode(user)
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise VuserTrouble(f"no account {name}: make it with useradd --system --no-create-home {name}") from None
    if entry.pw_uid == 0:
        raise VuserTrouble("the mail of a domain cannot be root's")
    return entry.pw_uid, entry.pw_gid


def _say(text: str) -> None:
    files.write_all(1, text.encode("utf-8", "surrogateescape"))
