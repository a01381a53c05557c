"""Whether a recipient is certainly nobody's, by the code that delivers (qmail-rcptd(8))."""

import os
import re

from pyqmail.control import read_knobs
from pyqmail.failure import PermanentFailure, TemporaryFailure
from pyqmail.formats import dotqmail
from pyqmail.formats.cdb import Cdb, CdbCorrupt
from pyqmail.launch import identify
from pyqmail.local import passwd
from pyqmail.local.instructions import Arguments, Instructions, Usage, read_instructions
from pyqmail.local.recent_accounts import RecentAccounts
from pyqmail.mailauth.srs_address import kind_of
from pyqmail.policy.accounts import Accounts
from pyqmail.policy.classify import Routing, classify
from pyqmail.policy.users import Assignment, UsersDatabase, UsersTrouble, parse_assignment
from pyqmail.system import files
from pyqmail.system.stamp import Seen, Watched

WHOLE_NAME = b"\0\0\0"  # how a record without dash and extension ends
INSTRUCTIONS_MAX = 4096  # of the one line that is understood; a longer file is there, and that is enough
SRSFILTER = re.compile(rb"[ \t]*(?:[\w/.+-]*/)?srsfilter[ \t]*", re.ASCII)
FASTFORWARD = re.compile(rb"[ \t]*(?:[\w/.+-]*/)?fastforward[ \t]+-d[ \t]+([\w/.+@:-]+)[ \t]*", re.ASCII)


def own_programs(home: str) -> dict[str, str]:
    """The programs whose decisions we foretell: by path, the module that each is if it is our own."""
    return {f"{home}/bin/qmail-{name}": f"pyqmail.programs.qmail_{name}" for name in ("getpw", "local")}


def are_ours(home: str) -> bool:
    """Whether these programs are our own."""
    return all(identify(path) == module for path, module in own_programs(home).items())


class Lookup:
    """What would become of a recipient, by the code that qmail-send, qmail-lspawn and qmail-local run."""

    def __init__(self, home: str, accounts: Accounts, routing: Routing) -> None:
        knobs = read_knobs(home)
        self._home = home
        self._accounts = accounts
        self._routing = routing
        self._break = knobs.break_char
        self._forbidden = knobs.patrn
        self._users = UsersDatabase(home, accounts)
        self._recent = RecentAccounts()
        # two stats while nothing changes; a no is looked at again: it may have been a file that was not read
        self._ours = Watched(are_ours, lambda home: Seen(own_programs(home)), lasts=bool)

    def nobody(self, recipient: bytes) -> bool:
        """Whether ``recipient`` is certainly nobody's."""
        channel, address = classify(recipient, self._routing)
        local, _, domain = address.rpartition(b"@")
        if channel != "local" or not local or b"\0" in local or not self._ours.get(self._home):
            return False
        assignment = self._assignment(local)
        if assignment is None or assignment.uid == 0 or not assignment.dash:
            return False  # not known, deferred, or delivered by the default instructions
        words = (assignment.user, assignment.homedir, local, assignment.dash, assignment.ext, domain, b"", b"#")
        try:
            arguments = Arguments(words, describe=True)
            os.chdir(assignment.homedir)
        except (OSError, Usage):
            return False
        try:
            found = read_instructions(arguments, self._forbidden, INSTRUCTIONS_MAX)
            return self._is_alias(assignment) and self._not_for_its_program(arguments, found)
        except PermanentFailure:
            return True
        except (TemporaryFailure, CdbCorrupt, OSError):
            return False
        finally:
            os.chdir("/")

    def _assignment(self, local: bytes) -> Assignment | None:
        try:
            record = self._users.find(local) or self._recent.get(local) or self._user(local)
            if record is None:
                record = passwd.find_alias(self._accounts.alias_name, local)
        except (UsersTrouble, passwd.LookupTrouble):
            return None
        return parse_assignment(record)

    def _user(self, local: bytes) -> bytes | None:
        """The record of a user. It stands for a second where all of ``local`` is his name: no such answer refuses."""
        record = passwd.find_user(local, self._break)
        if record is not None and record.endswith(WHOLE_NAME):
            self._recent.put(local, record)
        return record

    def _is_alias(self, assignment: Assignment) -> bool:
        return assignment.uid == self._accounts.uid_alias

    def _not_for_its_program(self, arguments: Arguments, instructions: Instructions) -> bool:
        """Whether a default file is just ``| srsfilter`` or ``| fastforward -d FILE``, which do not know it."""
        lines = list(dotqmail.parse_lines(instructions.data))
        if instructions.default is None or instructions.forward_only or len(lines) != 1:
            return False
        kind, command = lines[0]
        if kind != dotqmail.PROGRAM:
            return False
        if SRSFILTER.fullmatch(command):
            return not kind_of(instructions.default)
        match = FASTFORWARD.fullmatch(command)
        if match is None or len(instructions.default) != len(arguments.ext):
            return False
        address = instructions.default.lower() + b"@" + arguments.domain.lower()
        fd = files.open_read(match[1])
        try:
            aliases = Cdb(fd)
            box, _, host = address.rpartition(b"@")
            keys = (b":" + address, b":@" + host, b":" + box + b"@")
            return all(aliases.get(key) is None for key in keys)
        finally:
            os.close(fd)
