"""Local deliveries: the account of each recipient, then qmail-local as that account (qmail-lspawn(8)).

qmail-local and qmail-getpw run in warm workers, one kind per uid and gid, while bin/ holds our own.
"""

import os
from collections.abc import Mapping
from functools import partial

from pyqmail.exits import SpawnExit
from pyqmail.formats.report import append_local, local_report
from pyqmail.intake.client import FACTS
from pyqmail.intake.resend import REWRITTEN, WISHES
from pyqmail.local.recent_accounts import RecentAccounts
from pyqmail.local.sender_rewriting import SenderRewriting
from pyqmail.policy.accounts import Accounts
from pyqmail.policy.users import UsersDatabase, UsersTrouble, parse_assignment
from pyqmail.protocol.spawn import Command
from pyqmail.system.loop import Loop, Timer
from pyqmail.system.process import find_program
from pyqmail.system.stamp import Glance
from pyqmail.warm.cold import NULL
from pyqmail.warm.collector import Collector, Done, Output, Stop
from pyqmail.warm.runner import Runner

LOOKUPS_MAX = 8  # qmail-getpw at once; they are short
LOOKUP_S = 30.0  # for one: a directory service that hangs would have all slots, and the mail of assigned users too


class LocalChannel:
    """Local deliveries: find the account, then run bin/qmail-local as that account."""

    def __init__(
        self,
        loop: Loop,
        home: str,
        accounts: Accounts,
        default_delivery: bytes,
        environ: Mapping[bytes, bytes],
        limit: int,
    ) -> None:
        self._loop = loop
        self._home = home
        self._accounts = accounts
        self._default_delivery = default_delivery
        self.glance = Glance()  # at all files on which it depends who gets a message, and by which program
        self._recent = RecentAccounts(self.glance)
        self._users = UsersDatabase(home, accounts, self.glance)
        self._rewriting = SenderRewriting(home)
        other = environ.get(b"QMAILLOCAL", b"")  # to execute in its place
        self._local = Runner(
            loop,
            lambda: find_program(other, environ.get(b"PATH")) if other else home + "/bin/qmail-local",
            # what QMAILLOCAL names is always executed: no module has an empty name
            "" if other else "pyqmail.programs.qmail_local",
            {name: value for name, value in environ.items() if name not in (REWRITTEN, FACTS, WISHES)},
            directory=home,
            limit=limit,
            setup_exit=SpawnExit.USAGE,
            descriptor_exit=SpawnExit.SYSTEM,
            exec_exit=SpawnExit.EXEC_TEMPORARY,
            glance=self.glance,
        )
        self._getpw = Runner(
            loop,
            lambda: home + "/bin/qmail-getpw",
            "pyqmail.programs.qmail_getpw",
            environ,
            directory=home,
            limit=min(limit, LOOKUPS_MAX),
            setup_exit=SpawnExit.USAGE,
            descriptor_exit=SpawnExit.SYSTEM,
            exec_exit=SpawnExit.EXEC_GETPW,
        )

    def start(self, command: Command, message: int, output: Output, done: Done) -> Stop:
        """Begin with the account of the recipient's local part, everything before the last @."""
        local = command.recipient.rpartition(b"@")[0]
        if not local:
            return _finish(message, done, 0)  # the trash address
        try:
            record = self._users.find(local)
        except UsersTrouble:
            return _finish(message, done, SpawnExit.CDB)
        if record is None:
            record = self._recent.get(local)
        if record is not None:
            return self._run(command, record, message, output, done)
        steps = Steps()
        looked_up = partial(self._looked_up, steps, command, message, output, done)
        collector = Collector(self._loop, append_whole, looked_up)
        identity = (self._accounts.uid_passwd, self._accounts.gid_nofiles)
        argv = (b"bin/qmail-getpw", local)
        try:
            collector.stop = self._getpw.run(argv, identity, NULL, collector, collector.ended, errors=False)
        except OSError:
            collector.cancel()
            raise
        steps.stop = collector.give_up
        steps.limit = self._loop.call_later(LOOKUP_S, collector.give_up)
        return steps

    def append(self, stored: bytearray, data: bytes) -> None:
        """Keep output up to the limit of local reports."""
        append_local(stored, data)

    def report(self, status: int | None, output: bytes) -> bytes:
        """Letter and text from qmail-local's status, or from that of the steps before it."""
        return local_report(status, output)

    def close(self) -> None:
        """Let the workers end."""
        self._local.close()
        self._getpw.close()

    def _looked_up(
        self,
        steps: "Steps",
        command: Command,
        message: int,
        output: Output,
        done: Done,
        status: int | None,
        record: bytes,
    ) -> None:
        if steps.limit is not None:
            steps.limit.cancel()
        if status != 0 or steps.stopped:
            _finish(message, done, status or SpawnExit.SYSTEM)
            return
        if self._getpw.warm:
            self._recent.put(command.recipient.rpartition(b"@")[0], record)
        try:
            steps.stop = self._run(command, record, message, output, done)
        except OSError:
            _finish(message, done, SpawnExit.SYSTEM)

    def _run(self, command: Command, record: bytes, message: int, output: Output, done: Done) -> Stop:
        assignment = parse_assignment(record)
        if assignment is None:
            return _finish(message, done, SpawnExit.USAGE)
        single_user = self._accounts.single_user
        if (os.getuid() if single_user else assignment.uid) == 0:
            return _finish(message, done, SpawnExit.ROOT)
        local, _, domain = command.recipient.rpartition(b"@")
        who = (assignment.user, assignment.homedir, local, assignment.dash, assignment.ext)
        argv = (b"bin/qmail-local", b"--", *who, domain, command.sender, self._default_delivery)
        identity = None if single_user else (assignment.uid, assignment.gid)
        variables = self._rewriting.variables(command.sender)
        if command.has_facts:
            from pyqmail.local.forward_facts import facts_variables  # few messages have any

            variables = {**variables, **facts_variables(self._home, command, message)}
        return self._local.run(argv, identity, message, output, done, variables=variables, size=command.size)


class Steps:
    """What ends a delivery now, the look-up or what comes after it."""

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self.limit: Timer | None = None  # of the look-up
        self.stopped = False

    def __call__(self) -> None:
        """End the step that is under way, and begin no other."""
        self.stopped = True
        if self.stop is not None:
            self.stop()


def append_whole(stored: bytearray, data: bytes) -> None:
    """Keep all of a look-up's output."""
    stored += data


def _finish(message: int, done: Done, status: int) -> Stop:
    """End a delivery without a program; there is nothing to stop."""
    os.close(message)
    done(status)
    return _nothing


def _nothing() -> None:
    """Nothing runs."""
