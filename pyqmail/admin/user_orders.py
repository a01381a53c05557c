"""What is ordered of virtual users and aliases (qmail-vuser(8))."""

import getpass
import os
import sys
from dataclasses import replace

from pyqmail.admin.domain_orders import domains_of, locked, must_not_loop
from pyqmail.admin.virtual_domains import (
    Domain,
    Instructions,
    VuserTrouble,
    as_owner,
    check_targets,
    dot_qmail,
    make_maildir,
    read_instructions,
    remove_tree,
    split_address,
    write_instructions,
)
from pyqmail.login import passwords
from pyqmail.login.virtual_users import VirtualUser, read_users, write_users
from pyqmail.system import files

PASSWORD_MAX = 400  # name, password and stamp have 512 bytes together on their way to checkpassword


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


class UserOrders:
    """Each method is a word of the command line. All raise VuserTrouble, VirtualUnreadable, OSError."""

    def __init__(self, home: str, *, mail: bool = False, apop: bool = False) -> None:
        """``mail``: who is removed goes with the mail; ``apop``: the password is kept readable, for APOP."""
        self.home = home
        self.domains = domains_of(home)
        self._mail = mail
        self._apop = apop

    def add(self, words: list[bytes]) -> None:
        """A user with a Maildir and a password, and perhaps copies to elsewhere."""
        name, domain = self._locate(words[0])
        check_targets(words[1:])
        password = read_password()
        with locked(self.home):
            self._must_be_free(name, domain)
            instructions = Instructions(name, words[1:])
            must_not_loop(self.home, domain, dot_qmail(name), instructions)

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
            must_not_loop(self.home, domain, dot_qmail(name), instructions)
            as_owner(domain, lambda: write_instructions(dot_qmail(name), instructions))

    def alias(self, words: list[bytes]) -> None:
        """A name without a mailbox, or other targets of one that is there."""
        name, domain = self._locate(words[0])
        check_targets(words[1:])
        with locked(self.home):
            old = read_instructions(domain, dot_qmail(name))
            if old is not None and old.mailbox is not None:
                raise VuserTrouble(f"{os.fsdecode(words[0])} has a mailbox: use forward")
            instructions = Instructions(None, words[1:])
            must_not_loop(self.home, domain, dot_qmail(name), instructions)
            as_owner(domain, lambda: write_instructions(dot_qmail(name), instructions))

    def remove(self, words: list[bytes]) -> None:
        """Take a user or an alias away; the mail only if asked for."""
        name, domain = self._locate(words[0])
        with locked(self.home):
            self._instructions(name, domain)
            users = read_users(self.home)
            if users.pop(name + b"@" + domain.name, None) is not None:
                write_users(self.home, users)

            def take() -> None:
                files.unlink_if_present(dot_qmail(name))
                if self._mail:
                    remove_tree(name)

            as_owner(domain, take)

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

    def _set_password(self, name: bytes, domain: Domain, password: bytes) -> None:
        address = name + b"@" + domain.name
        users = read_users(self.home)
        fresh = VirtualUser(
            address, passwords.hash_password(password), b"", domain.uid, domain.gid, domain.home + b"/" + name
        )
        user = replace(users.get(address, fresh), password_hash=fresh.password_hash)
        users[address] = replace(user, secret=password if self._apop else b"")
        write_users(self.home, users)
