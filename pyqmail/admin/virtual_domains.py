"""The files behind a virtual domain of mail users (qmail-vuser(8)), and what it takes to add one or to take it away.

    control/virtualdomains      DOMAIN:DOMAIN                       mail for it is local, as DOMAIN-NAME
    users/assign                +DOMAIN-:vmail:UID:GID:HOME:-::     and DOMAIN-NAME is HOME/.qmail-NAME
    control/rcpthosts           DOMAIN                              others may send to it
    HOME/.qmail-NAME            ./NAME/Maildir/ and &ADDRESS lines
    HOME/.qmail-default         what becomes of names that nobody has; without it they do not exist
    HOME/NAME/Maildir/          the mail
    users/virtual, .cdb         the passwords (login/virtual_users.py)

Everything below HOME is written by a child that has become the domain's user: root follows nobody's links there.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from pyqmail.control import Control
from pyqmail.system import files
from pyqmail.system.process import become

NAME = re.compile(rb"[a-z0-9_+=][a-z0-9_+=.-]{0,63}")
DOMAIN = re.compile(rb"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")
ADDRESS = re.compile(rb"[!-~\x80-\xff]+@[a-zA-Z0-9.\[\]:_-]+")


class VuserTrouble(Exception):
    """The order cannot be carried out, and nothing has changed; the text says why."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A virtual domain as users/assign has it."""

    name: bytes
    uid: int
    gid: int
    home: bytes


def split_address(address: bytes) -> tuple[bytes, bytes]:
    """Name and domain, in lower case, of somebody to be. Raises VuserTrouble."""
    name, at, domain = address.lower().rpartition(b"@")
    shown = os.fsdecode(address)
    if not at or not NAME.fullmatch(name) or not DOMAIN.fullmatch(domain):
        raise VuserTrouble(f"{shown} is no address that can be had here: letters, digits and ._+=- before the @")
    if name == b"default" or name.endswith(b"-default"):
        raise VuserTrouble(f"{shown}: names that end in -default mean every name in a .qmail file")
    return name, domain


def check_targets(targets: list[bytes]) -> None:
    """Whether mail can be forwarded to each of ``targets``. Raises VuserTrouble."""
    for target in targets:
        if not ADDRESS.fullmatch(target):
            raise VuserTrouble(f"{os.fsdecode(target)!r} is no address to forward to")


def dot_qmail(name: bytes) -> bytes:
    """The file that takes the mail of ``name``: dots are colons in it (dot-qmail(5))."""
    return b".qmail-" + name.replace(b".", b":")


def name_of(file: bytes) -> bytes:
    """The name whose mail the .qmail file takes."""
    return file.removeprefix(b".qmail-").replace(b":", b".")


class Instructions:
    """What a .qmail file of ours says: a mailbox or none, and where mail is forwarded to."""

    def __init__(self, mailbox: bytes | None, targets: list[bytes]) -> None:
        self.mailbox = mailbox
        self.targets = targets

    @classmethod
    def parse(cls, data: bytes) -> "Instructions":
        """From the bytes of a file; other lines than ours are left out."""
        mailbox, targets = None, []
        for line in data.split(b"\n"):
            if line.startswith(b"./") and line.endswith(b"/Maildir/"):
                mailbox = line[2 : -len(b"/Maildir/")]
            elif line.startswith(b"&"):
                targets.append(line[1:])
        return cls(mailbox, targets)

    def format(self) -> bytes:
        """The bytes of the file."""
        lines = [b"./%b/Maildir/" % self.mailbox] if self.mailbox is not None else []
        return b"".join(line + b"\n" for line in [*lines, *(b"&" + target for target in self.targets)])


# Below the domain's home


def as_owner(domain: Domain, act: Callable[[], None]) -> None:
    """Do ``act`` as the domain's user, in its home. Raises VuserTrouble with what went wrong."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            if os.geteuid() == 0:
                become(domain.uid, domain.gid, [domain.gid])
            os.umask(0o077)
            os.chdir(domain.home)
            act()
            os._exit(0)
        except OSError as error:
            text = f"{os.fsdecode(error.filename or domain.home)}: {error.strerror}"
            os.write(writer, text.encode("utf-8", "replace"))
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as source:
        text = source.read().decode("utf-8", "replace")
    if os.waitpid(pid, 0)[1] != 0:
        raise VuserTrouble(text or "the work below the domain's home has failed")


def write_instructions(file: bytes, instructions: Instructions) -> None:
    """Replace a .qmail file in the current directory, durably. Raises OSError."""
    files.replace_file(file + b".new", file, instructions.format(), mode=0o600)


def read_instructions(domain: Domain, file: bytes) -> Instructions | None:
    """The .qmail file of a name; None when there is none. Raises VuserTrouble."""
    try:
        fd = os.open(domain.home + b"/" + file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VuserTrouble(f"{os.fsdecode(file)}: {error.strerror}") from None
    try:
        return Instructions.parse(os.read(fd, 65536))
    finally:
        os.close(fd)


def make_maildir(name: bytes) -> None:
    """NAME/Maildir in the current directory, each part that is not there yet. Raises OSError."""
    for folder in (name, name + b"/Maildir", *(name + b"/Maildir/" + part for part in (b"tmp", b"new", b"cur"))):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not os.path.isdir(folder) or os.path.islink(folder):
                raise


def remove_tree(path: bytes) -> None:
    """A directory and everything in it. Raises OSError."""
    if os.path.lexists(path):
        shutil.rmtree(path)


# The files of the home


def replace_file(path: str, data: bytes) -> None:
    """Put ``data`` in the place of an admin's file, with its mode; 0644 for a new one. Raises OSError."""
    try:
        mode = os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        mode = 0o644
    files.replace_file(path + ".new", path, data, mode=mode)


def read_file(path: str) -> bytes | None:
    """The bytes of a file; None when it is missing. Raises OSError."""
    try:
        with open(path, "rb") as source:
            return source.read()
    except FileNotFoundError:
        return None


def with_line(data: bytes | None, line: bytes) -> bytes:
    """``data`` with ``line`` at its end, unless it has it."""
    lines = (data or b"").split(b"\n")
    if line in lines:
        return data or b""
    return b"\n".join([*(lines[:-1] if not lines[-1] else lines), line]) + b"\n"


def without_line(data: bytes, unwanted: Callable[[bytes], bool]) -> bytes:
    """``data`` less the lines that are ``unwanted``."""
    return b"\n".join(line for line in data.split(b"\n") if not unwanted(line))


def accepted_now(home: str) -> bytes:
    """rcpthosts; where it is missing, what is accepted then: one more domain must not shut out the rest.

    Raises OSError and ControlUnreadable.
    """
    data = read_file(f"{home}/control/rcpthosts")
    if data is not None:
        return data
    control = Control(home)
    me = control.me()
    hosts = [*(control.lines("locals") or ()), *([me] if me else [])]
    return b"".join(host + b"\n" for host in dict.fromkeys(hosts))


class Domains:
    """The virtual domains of one home. ``newu`` makes users/cdb from users/assign; false if it cannot."""

    def __init__(self, home: str, newu: Callable[[], bool]) -> None:
        self.home = home
        self._make_cdb = newu
        self._assign = f"{home}/users/assign"
        self._virtual = f"{home}/control/virtualdomains"
        self._rcpthosts = f"{home}/control/rcpthosts"

    def all(self) -> dict[bytes, Domain]:
        """Those that this program has made, by name. Raises VuserTrouble and OSError."""
        found = {}
        for line in (read_file(self._assign) or b"").split(b"\n"):
            fields = line.split(b":")
            name = fields[0][1:-1]
            if len(fields) == 8 and fields[0].startswith(b"+") and fields[0].endswith(b"-") and DOMAIN.fullmatch(name):
                if not fields[2].isdigit() or not fields[3].isdigit():
                    raise VuserTrouble(f"users/assign: no numbers for {os.fsdecode(name)}")
                found[name] = Domain(name, int(fields[2]), int(fields[3]), fields[4])
        return found

    def get(self, name: bytes) -> Domain:
        """The domain ``name``. Raises VuserTrouble."""
        domain = self.all().get(name)
        if domain is None:
            raise VuserTrouble(f"{os.fsdecode(name)} is no domain of virtual users: make it with add-domain")
        return domain

    def add(self, name: bytes, user: bytes, uid: int, gid: int) -> Domain:
        """Make the domain ``name``, whose files belong to ``user``. Raises VuserTrouble and OSError."""
        shown = os.fsdecode(name)
        if not DOMAIN.fullmatch(name):
            raise VuserTrouble(f"{shown} is no domain name")
        if name in {line.lower() for line in Control(self.home).lines("locals") or ()}:
            raise VuserTrouble(f"{shown} is in control/locals, which comes before virtualdomains: take it out first")
        taken = (Control(self.home).mapping("virtualdomains") or {}).get(name)
        begun = self.all().get(name)  # an interrupted add-domain is finished by another one
        if taken is not None and (begun or taken != name):
            raise VuserTrouble(f"{shown} is a virtual domain already")
        domain = begun or Domain(name, uid, gid, os.fsencode(self.home) + b"/domains/" + name)
        line = b"+%b-:%b:%d:%d:%b:-::" % (name, user, domain.uid, domain.gid, domain.home)
        self._make_home(domain)
        if begun is None:
            replace_file(self._assign, self._assign_with(line))
        self._newu()
        replace_file(self._virtual, with_line(read_file(self._virtual), b"%b:%b" % (name, name)))
        replace_file(self._rcpthosts, with_line(accepted_now(self.home), name))
        return domain

    def remove(self, domain: Domain, *, mail: bool) -> None:
        """Take the domain out of the files, and with ``mail`` its home too. Raises VuserTrouble and OSError."""
        virtual = read_file(self._virtual)
        if virtual is not None:
            own = b"%b:%b" % (domain.name, domain.name)
            replace_file(self._virtual, without_line(virtual, lambda line: line.lower() == own))
        hosts = read_file(self._rcpthosts)
        if hosts is not None:
            replace_file(self._rcpthosts, without_line(hosts, lambda line: line.lower() == domain.name))
        start = b"+%b-:" % domain.name
        replace_file(self._assign, without_line(read_file(self._assign) or b"", lambda line: line.startswith(start)))
        self._newu()
        if mail:
            shutil.rmtree(domain.home)  # which follows no links, whatever its owner does meanwhile

    def _make_home(self, domain: Domain) -> None:
        parent = os.path.dirname(domain.home)
        os.makedirs(parent, 0o755, exist_ok=True)
        os.chmod(parent, 0o755)
        try:
            os.mkdir(domain.home, 0o755)
            os.chmod(domain.home, 0o755)  # whatever the umask: qmail-smtpd asks who exists
        except FileExistsError:
            if os.path.islink(domain.home) or os.stat(domain.home).st_uid != domain.uid:
                raise VuserTrouble(f"{os.fsdecode(domain.home)} is there already, and not the user's") from None
        if os.geteuid() == 0:
            os.chown(domain.home, domain.uid, domain.gid)

    def _assign_with(self, line: bytes) -> bytes:
        """users/assign with ``line`` before its final dot."""
        data = read_file(self._assign)
        if data is None:
            return line + b"\n.\n"
        lines = data.split(b"\n")
        for at, old in enumerate(lines):
            if old.startswith(b"."):
                return b"\n".join([*lines[:at], line, *lines[at:]])
        raise VuserTrouble("users/assign has no final dot")

    def _newu(self) -> None:
        if not self._make_cdb():
            raise VuserTrouble("qmail-newu has failed; users/cdb is as it was")
