"""What would become of mail for an address, along all local forwards: does it loop, bounce or wait?"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

from pyqmail.control import Control, read_knobs
from pyqmail.exits import SpawnExit
from pyqmail.failure import MailFailure, PermanentFailure
from pyqmail.formats import dotqmail
from pyqmail.formats.report import local_report
from pyqmail.local import passwd
from pyqmail.local.delivery import delivery_environment
from pyqmail.local.instructions import Arguments, Instructions, Usage, check_home, read_instructions
from pyqmail.local.program_forwards import Forward, read_command
from pyqmail.local.suspicions import BOUNCES, DEFERS, LOOPS, Suspicion, judge
from pyqmail.policy.accounts import Accounts
from pyqmail.policy.classify import Routing, classify
from pyqmail.policy.users import Assignment, UsersDatabase, UsersTrouble, parse_assignment
from pyqmail.system.process import Acting

OF_THE_MESSAGE = (b"SENDER", b"NEWSENDER", b"RPLINE", b"UFLINE")
TRAIL_MAX = 50  # forwards, one after another


def identity(accounts: Accounts, uid: int, gid: int) -> AbstractContextManager[None]:
    """In which files are looked at as a program of that account does; in a single-user tree nobody changes uid."""
    return nullcontext() if accounts.single_user else Acting(uid, gid)


def default_delivery(home: str) -> bytes:
    """control/defaultdelivery, which the run files hand over, else a Maildir. Raises ControlUnreadable."""
    data = Control(home).read("defaultdelivery")
    return b"./Maildir/" if data is None else data.rstrip(b"\n")


class Judged(NamedTuple):
    """A line of a .qmail file, what is wrong with it, and where it sends mail on to."""

    kind: bytes
    argument: bytes
    wrong: Suspicion | None
    forwards: tuple[Forward, ...]


def surroundings(arguments: Arguments, default: bytes | None, home: str) -> dict[bytes, bytes]:
    """What programs see of an address (qmail-command(8)), in the tree ``home``; of a message nothing is known."""
    environ = delivery_environment({b"QMAIL_HOME": os.fsencode(home)}, arguments, default, b"", 0)
    return {name: value for name, value in environ.items() if name not in OF_THE_MESSAGE}


def judge_lines(instructions: Instructions, environ: Mapping[bytes, bytes], home: str) -> Iterator[Judged]:
    """Each line of ``instructions`` with what is wrong with it. The current directory is the recipient's home.

    ``environ``: what is known of the ``surroundings``.
    """
    forward_only = instructions.forward_only
    for kind, argument in dotqmail.parse_lines(instructions.data):
        wrong = judge(kind, argument, forward_only=forward_only, home=home)
        forwards: tuple[Forward, ...] = ()
        if kind == dotqmail.FORWARD:
            forwards = (Forward(argument),)
        elif kind == dotqmail.PROGRAM and wrong is None:
            wrong, forwards = read_command(argument, environ, home)
        yield Judged(kind, argument, wrong, forwards)
        forward_only = forward_only or kind == dotqmail.FORWARD_ONLY


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
            for wrong in self.follow(forward.address, (*trail, address.lower())):
                found.append(replace(wrong, sure=wrong.sure and forward.sure))
        self._done.add(address.lower())
        return found

    def _assignment(self, local: bytes) -> Assignment | None:
        """Raises UsersTrouble and LookupTrouble."""
        record = self._users.find(local)
        if record is None:
            with identity(self._accounts, self._accounts.uid_passwd, self._accounts.gid_nofiles):
                record = passwd.find_user(local, self._break) or passwd.find_alias(self._accounts.alias_name, local)
        return parse_assignment(record)

    def _look(self, address: bytes, assignment: Assignment) -> tuple[list[Suspicion], list[Forward]]:
        """What is wrong with the instructions for one address, and where they forward to."""
        local, _, domain = address.rpartition(b"@")
        words = (assignment.user, assignment.homedir, local, assignment.dash, assignment.ext, domain, b"")
        try:
            arguments = Arguments((*words, self._default), describe=True)
            with identity(self._accounts, assignment.uid, assignment.gid):
                os.chdir(assignment.homedir)
                check_home(True, self._forbidden)
                instructions = self._instructions(arguments)
                environ = surroundings(arguments, instructions.default, self._home)
                lines = list(judge_lines(instructions, environ, self._home))
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
            Suspicion(line.wrong.code, f"{os.fsdecode(address)}: {os.fsdecode(line.argument)}: {line.wrong.text}")
            for line in lines
            if line.wrong is not None
        ]
        return found, [forward for line in lines for forward in line.forwards]

    def _instructions(self, arguments: Arguments) -> Instructions:
        """Those in force, or proposed. Raises MailFailure."""
        for name, default in dotqmail.candidates(arguments.dash, arguments.ext):
            proposed = self._proposed.get(arguments.homedir + b"/" + name)
            if proposed is not None:
                return Instructions(proposed, default=default, forward_only=False)
            if os.path.exists(name):
                break
        return read_instructions(arguments, self._forbidden)
