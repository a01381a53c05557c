"""qmail-vuser: mail users who are no users of the system (qmail-vuser(8)).

qmail-vuser add-domain DOMAIN [USER]        qmail-vuser remove-domain [--mail] DOMAIN
qmail-vuser add [--apop] ADDRESS [FORWARD...]
qmail-vuser passwd [--apop] ADDRESS         the password: asked for, or the first line of standard input
qmail-vuser forward ADDRESS [FORWARD...]
qmail-vuser alias ADDRESS TARGET...
qmail-vuser remove [--mail] ADDRESS
qmail-vuser default DOMAIN [TARGET...]
qmail-vuser list [DOMAIN]
"""

import fcntl
import getpass
import os
import pwd
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pyqmail.admin.databases import make, make_users
from pyqmail.admin.virtual_domains import (
    Domain,
    Domains,
    Instructions,
    VuserTrouble,
    as_owner,
    check_targets,
    dot_qmail,
    make_maildir,
    name_of,
    read_instructions,
    remove_tree,
    split_address,
    write_instructions,
)
from pyqmail.control import ControlUnreadable, home_of
from pyqmail.local.outlook import LOOPS, Outlook
from pyqmail.login import passwords
from pyqmail.login.virtual_users import VirtualUnreadable, VirtualUser, read_users, write_users
from pyqmail.policy.accounts import AccountMissing, read_accounts
from pyqmail.send.controls import read_controls
from pyqmail.system import files

DONE, REFUSED, USAGE, TROUBLE = 0, 1, 100, 111
PASSWORD_MAX = 400  # name, password and stamp have 512 bytes together on their way to checkpassword
OWNER = b"vmail"
DEFAULT = b".qmail-default"
RELOAD = "qmail-vuser: tell qmail-send: qmailctl reload, or signal HUP\n"


class Misuse(Exception):
    """The command line is none."""


@contextmanager
def locked(home: str) -> Iterator[None]:
    """One qmail-vuser at a time. Raises OSError."""
    fd = os.open(f"{home}/users/virtual.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def read_password() -> bytes:
    """A new password: asked for twice at a terminal, else the first line of standard input. Raises VuserTrouble."""
    if os.isatty(0):
        password = os.fsencode(getpass.getpass("new password: "))
        if os.fsencode(getpass.getpass("once more: ")) != password:
            raise VuserTrouble("the two passwords differ")
    else:
        password = sys.stdin.buffer.readline().rstrip(b"\r\n")
    if not password or b"\0" in password or len(password) > PASSWORD_MAX:
        raise VuserTrouble(f"a password has 1 to {PASSWORD_MAX} bytes and no NUL")
    return password


def _say(text: str) -> None:
    files.write_all(1, text.encode("utf-8", "surrogateescape"))


class Orders:
    """What the words of the command line stand for; each method is one of them."""

    def __init__(self, home: str, options: frozenset[str]) -> None:
        self.home = home
        self.domains = Domains(home, lambda: make("qmail-newu", lambda: make_users(home)) == 0)
        self._options = options

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
            self.domains.remove(domain, mail="--mail" in self._options)
        _say(RELOAD)

    def add(self, words: list[bytes]) -> None:
        """A user with a Maildir and a password, and perhaps copies to elsewhere."""
        name, domain = self._locate(words[0])
        check_targets(words[1:])
        password = read_password()
        with locked(self.home):
            self._must_be_free(name, domain)
            instructions = Instructions(name, words[1:])
            self._must_not_loop(domain, dot_qmail(name), instructions)

            def make() -> None:
                make_maildir(name)
                write_instructions(dot_qmail(name), instructions)

            as_owner(domain, make)
            self._set_password(name, domain, password)

    def passwd(self, words: list[bytes]) -> None:
        """Another password."""
        name, domain = self._locate(words[0])
        address = name + b"@" + domain.name
        if address not in read_users(self.home):
            raise VuserTrouble(f"{os.fsdecode(address)} has no mailbox")
        password = read_password()
        with locked(self.home):
            self._set_password(name, domain, password)

    def forward(self, words: list[bytes]) -> None:
        """Other copies of a user's mail, or none."""
        name, domain = self._locate(words[0])
        check_targets(words[1:])
        with locked(self.home):
            old = self._instructions(name, domain)
            if old.mailbox is None and not words[1:]:
                raise VuserTrouble(f"{os.fsdecode(words[0])} is an alias: give targets, or remove it")
            instructions = Instructions(old.mailbox, words[1:])
            self._must_not_loop(domain, dot_qmail(name), instructions)
            as_owner(domain, lambda: write_instructions(dot_qmail(name), instructions))

    def alias(self, words: list[bytes]) -> None:
        """A name without a mailbox, or other targets of one that is there."""
        name, domain = self._locate(words[0])
        if not words[1:]:
            raise Misuse
        check_targets(words[1:])
        with locked(self.home):
            old = read_instructions(domain, dot_qmail(name))
            if old is not None and old.mailbox is not None:
                raise VuserTrouble(f"{os.fsdecode(words[0])} has a mailbox: use forward")
            instructions = Instructions(None, words[1:])
            self._must_not_loop(domain, dot_qmail(name), instructions)
            as_owner(domain, lambda: write_instructions(dot_qmail(name), instructions))

    def remove(self, words: list[bytes]) -> None:
        """Take a user or an alias away; the mail only if asked for."""
        name, domain = self._locate(words[0])
        mail = "--mail" in self._options
        with locked(self.home):
            self._instructions(name, domain)
            users = read_users(self.home)
            if users.pop(name + b"@" + domain.name, None) is not None:
                write_users(self.home, users)

            def take() -> None:
                files.unlink_if_present(dot_qmail(name))
                if mail:
                    remove_tree(name)

            as_owner(domain, take)

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
            self._must_not_loop(domain, DEFAULT, Instructions(None, words[1:]))
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

    def _locate(self, address: bytes) -> tuple[bytes, Domain]:
        name, domain = split_address(address)
        return name, self.domains.get(domain)

    def _instructions(self, name: bytes, domain: Domain) -> Instructions:
        found = read_instructions(domain, dot_qmail(name))
        if found is None:
            raise VuserTrouble(f"{os.fsdecode(name + b'@' + domain.name)} does not exist")
        return found

    def _must_be_free(self, name: bytes, domain: Domain) -> None:
        address = name + b"@" + domain.name
        if read_instructions(domain, dot_qmail(name)) is not None and address in read_users(self.home):
            raise VuserTrouble(f"{os.fsdecode(address)} exists already")
        found = read_instructions(domain, dot_qmail(name))
        if found is not None and found.mailbox is None:
            raise VuserTrouble(f"{os.fsdecode(address)} is an alias: remove it first")

    def _must_not_loop(self, domain: Domain, file: bytes, instructions: Instructions) -> None:
        """Whether mail by ``instructions`` would come back to where it was. Raises VuserTrouble."""
        routing = read_controls(self.home).routing
        proposed = {domain.home + b"/" + file: instructions.format()}
        outlook = Outlook(self.home, read_accounts(self.home), routing, proposed)
        for target in instructions.targets:
            for wrong in outlook.follow(target):
                if wrong.text.startswith(LOOPS):
                    keeps = "; the mailbox has its copy anyway" if instructions.mailbox is not None else ""
                    raise VuserTrouble(f"{os.fsdecode(target)}: mail {wrong.text}{keeps}")

    def _set_password(self, name: bytes, domain: Domain, password: bytes) -> None:
        address = name + b"@" + domain.name
        users = read_users(self.home)
        fresh = VirtualUser(
            address, passwords.hash_password(password), b"", domain.uid, domain.gid, domain.home + b"/" + name
        )
        user = replace(users.get(address, fresh), password_hash=fresh.password_hash)
        users[address] = replace(user, secret=password if "--apop" in self._options else b"")
        write_users(self.home, users)


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


# name: the method, and the fewest and most words after it
COMMANDS: dict[str, tuple[Callable[[Orders, list[bytes]], None], int, int]] = {
    "add-domain": (Orders.add_domain, 1, 2),
    "remove-domain": (Orders.remove_domain, 1, 1),
    "add": (Orders.add, 1, 1000),
    "passwd": (Orders.passwd, 1, 1),
    "forward": (Orders.forward, 1, 1000),
    "alias": (Orders.alias, 2, 1000),
    "remove": (Orders.remove, 1, 1),
    "default": (Orders.default, 1, 1000),
    "list": (Orders.list, 0, 1),
}
OPTIONS = {"--mail": ("remove", "remove-domain"), "--apop": ("add", "passwd")}


def run(words: list[bytes], home: str) -> None:
    """Do what ``words`` say. Raises Misuse, VuserTrouble, VirtualUnreadable, OSError and what reading controls does."""
    command = os.fsdecode(words[0]) if words else ""
    options = frozenset(os.fsdecode(word) for word in words[1:] if word.startswith(b"--"))
    rest = [word for word in words[1:] if not word.startswith(b"--")]
    if command not in COMMANDS or any(command not in OPTIONS.get(option, ()) for option in options):
        raise Misuse
    act, fewest, most = COMMANDS[command]
    if not fewest <= len(rest) <= most:
        raise Misuse
    act(Orders(home, options), rest)


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0; 1 when it cannot be done as ordered, 100 for misuse, 111 for trouble; nothing has changed but with 0."""
    try:
        run(list(argv[1:]), home_of(environ))
        return DONE
    except Misuse:
        files.write_all(2, (__doc__ or "").partition("\n\n")[2].encode())
        return USAGE
    except VuserTrouble as trouble:
        code, text = REFUSED, str(trouble)
    except (AccountMissing, ControlUnreadable) as trouble:
        code, text = TROUBLE, str(trouble)
    except VirtualUnreadable as trouble:
        code, text = TROUBLE, f"users/virtual: {trouble}"
    except OSError as error:
        code, text = TROUBLE, f"{error.filename or ''}: {error.strerror or error}"
    files.write_all(2, f"qmail-vuser: {text}\n".encode("utf-8", "surrogateescape"))
    return code
