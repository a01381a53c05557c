"""What would become of mail for an address, along all local forwards: does it loop, bounce or wait?"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

from pyqmail.control import Control, read_knobs
from pyqmail.exits import SpawnExit
from pyqmail.failure import MailFailure, PermanentFailure
from pyqmail.formats import dotqmail
from pyqmail.formats.aliases import FILE, INCLUDE, NULL_DEVICE, PROGRAM, ListError, parse_lines
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.formats.report import local_report
from pyqmail.local import passwd
from pyqmail.local.existence import FASTFORWARD
from pyqmail.local.instructions import Arguments, Instructions, Usage, check_home, read_instructions
from pyqmail.local.suspicions import BOUNCES, DEFERS, Suspicion, judge
from pyqmail.policy.accounts import Accounts
from pyqmail.policy.classify import Routing, classify
from pyqmail.policy.users import Assignment, UsersDatabase, UsersTrouble, parse_assignment
from pyqmail.system.files import open_read, read_file
from pyqmail.system.process import Acting

DOT_FORWARD = re.compile(rb"[ \t]*(?:[\w/.+-]*/)?dot-forward[ \t]+([\w/.+@:-]+)[ \t]*", re.ASCII)
LOOPS = "loops:"
TRAIL_MAX = 50  # forwards, one after another


def identity(accounts: Accounts, uid: int, gid: int) -> AbstractContextManager[None]:
    """In which files are looked at as a program of that account does; in a single-user tree nobody changes uid."""
    return nullcontext() if accounts.single_user else Acting(uid, gid)


def default_delivery(home: str) -> bytes:
    """control/defaultdelivery, which the run files hand over, else a Maildir. Raises ControlUnreadable."""
    data = Control(home).read("defaultdelivery")
    return b"./Maildir/" if data is None else data.rstrip(b"\n")


def judge_lines(
    instructions: Instructions, domain: bytes, home: str
) -> Iterator[tuple[bytes, bytes, Suspicion | None]]:
    """Each line of ``instructions`` with what is wrong with it. The current directory is the recipient's home."""
    forward_only = instructions.forward_only
    for kind, argument in dotqmail.parse_lines(instructions.data):
        found = judge(kind, argument, forward_only=forward_only, home=home)
        if found is None and kind == dotqmail.PROGRAM:
            found = _judge_aliases(argument, instructions.default, domain) or _judge_forward_file(argument, home)
        yield kind, argument, found
        forward_only = forward_only or kind == dotqmail.FORWARD_ONLY


def _judge_aliases(command: bytes, default: bytes | None, domain: bytes) -> Suspicion | None:
    """What is wrong with ``fastforward -d FILE``: no such file, or the address is not in it."""
    match = FASTFORWARD.fullmatch(command)
    if match is None:
        return None
    shown = os.fsdecode(match[1])
    try:
        fd = open_read(match[1])
    except OSError as error:
        return Suspicion(DEFERS, f"{shown}: {error.strerror}")
    try:
        aliases = Cdb(fd)
        local, host = (default or b"").lower(), domain.lower()
        keys = (b":" + local + b"@" + host, b":@" + host, b":" + local + b"@")
        if default is not None and all(aliases.get(key) is None for key in keys):
            return Suspicion(BOUNCES, f"{shown} has no such address")
    except (CdbCorrupt, OSError):
        return Suspicion(DEFERS, f"{shown} is damaged")
    finally:
        os.close(fd)
    return None


def _judge_forward_file(command: bytes, home: str) -> Suspicion | None:
    """What is wrong with the file that ``dot-forward FILE`` would obey: the first line that cannot be honoured."""
    match = DOT_FORWARD.fullmatch(command)
    if match is None:
        return None
    shown = os.fsdecode(match[1])
    try:
        for number, entries in parse_lines(read_file(match[1])):
            for kind, text in entries:
                wrong = _judge_entry(kind, text, home)
                if wrong is not None:
                    return Suspicion(wrong.code, f"{shown}: line {number}: {os.fsdecode(text)}: {wrong.text}")
    except FileNotFoundError:
        return None
    except ListError as error:
        return Suspicion(DEFERS, f"{shown}: line {error.line}: {os.fsdecode(error.text)}")
    except OSError as error:
        return Suspicion(DEFERS, f"{shown}: {error.strerror}")
    return None


def _judge_entry(kind: int, text: bytes, home: str) -> Suspicion | None:
    path = b"." + text[1:] if text.startswith(b"~/") else text
    if kind == INCLUDE:
        return None if os.path.exists(path) else Suspicion(DEFERS, "the list is not there")
    if kind == PROGRAM:
        return judge(dotqmail.PROGRAM, text[1:], forward_only=False, home=home)
    if kind == FILE and path != NULL_DEVICE:
        where = dotqmail.MAILDIR if path.endswith(b"/") else dotqmail.MBOX
        return judge(where, path, forward_only=False, home=home)
    return None


class Outlook:
    """Follows addresses through the tree ``home``. ``proposed``: .qmail files, by path, as they may become."""

    def __init__(
        self, home: str, accounts: Accounts, routing: Routing, proposed: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Raises ControlUnreadable."""
        knobs = read_knobs(home)
        self._home = home
        self._accounts = accounts
        self._routing = routing
        self._proposed = proposed or {}
        self._break = knobs.break_char
        self._forbidden = knobs.patrn
        self._users = UsersDatabase(home, accounts)
        self._default = default_delivery(home)
        self._done: set[bytes] = set()  # addresses that have been followed to their ends

    def follow(self, recipient: bytes, trail: tuple[bytes, ...] = ()) -> list[Suspicion]:
        """What is wrong on the way of mail for ``recipient``, which came by the addresses of ``trail``.

        Each address is followed once in the life of this object. The current directory is the root afterwards.
        """
        channel, address = classify(recipient, self._routing)
        local = address.rpartition(b"@")[0]
        if channel != "local" or not local or len(trail) > TRAIL_MAX:
            return []
        if address.lower() in trail:
            shown = " to ".join(os.fsdecode(each) for each in (*trail[trail.index(address.lower()) :], address.lower()))
            return [Suspicion(BOUNCES, f"{LOOPS} {shown}")]
        if address.lower() in self._done:
            return []
        try:
            assignment = self._assignment(local)
        except (UsersTrouble, passwd.LookupTrouble):
            return [Suspicion(DEFERS, "its account cannot be looked up now")]
        if assignment is None:
            return []
        if assignment.uid == 0:
            code = BOUNCES if local_report(SpawnExit.ROOT, b"").startswith(b"D") else DEFERS
            return [Suspicion(code, f"{os.fsdecode(address)} is root's, who gets no mail")]
        found, forwards = self._look(address, assignment)
        for forward in forwards:
            found += self.follow(forward, (*trail, address.lower()))
        self._done.add(address.lower())
        return found

    def _assignment(self, local: bytes) -> Assignment | None:
        """Raises UsersTrouble and LookupTrouble."""
        record = self._users.find(local)
        if record is None:
            with identity(self._accounts, self._accounts.uid_passwd, self._accounts.gid_nofiles):
                record = passwd.find_user(local, self._break) or passwd.find_alias(self._accounts.alias_name, local)
        return parse_assignment(record)

    def _look(self, address: bytes, assignment: Assignment) -> tuple[list[Suspicion], list[bytes]]:
        """What is wrong with the instructions for one address, and where they forward to."""
        local, _, domain = address.rpartition(b"@")
        words = (assignment.user, assignment.homedir, local, assignment.dash, assignment.ext, domain, b"")
        try:
            arguments = Arguments((*words, self._default), describe=True)
            with identity(self._accounts, assignment.uid, assignment.gid):
                os.chdir(assignment.homedir)
                check_home(True, self._forbidden)
                lines = list(judge_lines(self._instructions(arguments), domain, self._home))
        except Usage:
            return [Suspicion(BOUNCES, f"{os.fsdecode(assignment.homedir)} is no home")], []
        except MailFailure as failure:
            code = BOUNCES if isinstance(failure, PermanentFailure) else DEFERS
            return [Suspicion(code, f"{os.fsdecode(address)}: {os.fsdecode(failure.text)}")], []
        except OSError as error:
            return [Suspicion(DEFERS, f"{os.fsdecode(assignment.homedir)}: {error.strerror}")], []
        finally:
            os.chdir("/")
        found = [
            Suspicion(wrong.code, f"{os.fsdecode(address)}: {os.fsdecode(argument)}: {wrong.text}")
            for _kind, argument, wrong in lines
            if wrong is not None
        ]
        return found, [argument for kind, argument, _wrong in lines if kind == dotqmail.FORWARD]

    def _instructions(self, arguments: Arguments) -> Instructions:
        """Those in force, or proposed. Raises MailFailure."""
        for name, default in dotqmail.candidates(arguments.dash, arguments.ext):
            proposed = self._proposed.get(arguments.homedir + b"/" + name)
            if proposed is not None:
                return Instructions(proposed, default=default, forward_only=False)
            if os.path.exists(name):
                break
        return read_instructions(arguments, self._forbidden)
