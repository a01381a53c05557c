"""qmail-rspawn: delivers to other hosts through qmail-remote, one recipient at a time (qmail-rspawn(8)).

``qmail-rspawn``, as qmailr: commands on descriptor 0, reports on 1. ``$QMAILREMOTE`` names another program to execute.
Two differences from the original: qmail-remote runs in warm workers while PATH finds our own; and a program that cannot
be executed defers the message, whatever the reason, because a local fault never bounces mail.

With control/remotebatch, deliveries of one message, sender and route that wait at the same time go to one qmail-remote
as its recipients; its reports are taken apart again, so that qmail-send sees no difference.
"""

import os
from collections.abc import Hashable, Mapping, Sequence

from pyqmail.control import ControlUnreadable
from pyqmail.formats.report import FACTS_VARIABLE, append_remote, remote_report, too_many, with_recipients
from pyqmail.protocol.spawn import Command
from pyqmail.remote.controls import BATCH_FILES, NOTHING_JOINED, BatchControls, read_batch_controls, watched
from pyqmail.remote.preload import preload
from pyqmail.remote.routes import LMTP, Route
from pyqmail.remote.security import Target
from pyqmail.system.files import open_write, write_all
from pyqmail.system.loop import Loop
from pyqmail.system.process import find_program
from pyqmail.warm.collector import Done, Output, Stop
from pyqmail.warm.runner import NOTHING, SENDERS, Runner
from pyqmail.warm.spawner import Spawner, begin

TCPTO_SIZE = 1024  # bytes of lock/tcpto
DELIVERY_S = 43200.0  # that a whole delivery may take, all answers of the other host together


class RemoteChannel:
    """Remote deliveries: run qmail-remote, found by PATH, as the user we are."""

    def __init__(self, loop: Loop, home: str, environ: Mapping[bytes, bytes], limit: int) -> None:
        self._home = home
        self._controls = watched(read_batch_controls, BATCH_FILES)
        self._latest = NOTHING_JOINED  # as of the last command
        self._prepared = bool(environ.get(b"QMAILREMOTE"))  # or nothing of ours would use it
        self._name = environ.get(b"QMAILREMOTE") or b"qmail-remote"
        self._runner = Runner(
            loop,
            lambda: find_program(self._name, environ.get(b"PATH")),
            # what QMAILREMOTE names is always executed: no module has an empty name
            "" if environ.get(b"QMAILREMOTE") else "pyqmail.programs.qmail_remote",
            environ,
            directory=os.path.abspath("."),  # queue/mess
            limit=limit,
            setup_exit=111,
            descriptor_exit=111,
            exec_exit=111,
            pacing=SENDERS,
        )

    def start(self, command: Command, message: int, output: Output, done: Done) -> Stop:
        """Run the program for everything after the last @; an empty box is nothing special here."""
        return self.start_together((command,), message, output, done)

    def start_together(self, commands: Sequence[Command], message: int, output: Output, done: Done) -> Stop:
        """Run the program for all of a group; any of their hosts has their route."""
        if not self._prepared:
            preload(self._home)
            self._prepared = True
        first = commands[0]
        host = first.recipient.rpartition(b"@")[2]
        argv = (self._name, host, first.sender, *(command.recipient for command in commands))
        affinity = self._place(first, self._latest) if self._latest.reuse_s else None
        variables = self._facts(first, message) if first.has_facts else NOTHING
        return self._runner.run(argv, None, message, output, done, affinity=affinity, variables=variables)

    def _facts(self, command: Command, message: int) -> dict[bytes, bytes]:
        """What is known of the open message beside its envelope, for qmail-remote. Raises OSError."""
        from pyqmail.spool.facts import beside  # few messages have any

        return {FACTS_VARIABLE: beside(message, f"{self._home}/queue/pyqmail/facts/{os.fsdecode(command.message)}")}

    def together(self) -> int:
        """As many as control/remotebatch says; 1 where a route leads to LMTP, whose recipients go side by side."""
        controls = self._read()
        return 1 if controls.directions.lead_to_lmtp or not self._runner.warm else controls.recipients_max

    def group(self, command: Command) -> tuple[Hashable, int]:
        """Message, sender and where it goes; as many as control/remotebatch says, if warm workers serve."""
        controls = self._latest = self._read()
        if controls.recipients_max < 2 or not self._runner.warm:
            return None, 1
        place = self._place(command, controls)
        if isinstance(place[0], Route) and LMTP in place[0].options:  # servers say Delivered-To of one recipient only
            return None, 1
        return (command.message, command.sender, place), controls.recipients_max

    def _read(self) -> BatchControls:
        """What may be joined; nothing while the control files cannot be read: qmail-remote will say so."""
        try:
            return self._controls.get(self._home)
        except ControlUnreadable:
            return NOTHING_JOINED

    @staticmethod
    def _place(command: Command, controls: BatchControls) -> Target:
        return controls.directions.target(command.recipient.rpartition(b"@")[2], command.sender)

    def append(self, stored: bytearray, data: bytes) -> None:
        """Keep all output."""
        append_remote(stored, data)

    def report(self, status: int | None, output: bytes) -> bytes:
        """Letter and text from the records that qmail-remote printed."""
        return remote_report(status, output)

    def reports(self, status: int | None, output: bytes, commands: Sequence[Command]) -> list[bytes | None]:
        """The report of each recipient, as if it had gone alone."""
        outputs = with_recipients(output, len(commands)) if status == 0 else [output] * len(commands)
        return [None if too_many(one, output) else remote_report(status, one) for one in outputs]

    def close(self) -> None:
        """Let the workers end."""
        self._runner.close()


def wipe_tcpto(path: str) -> None:
    """Forget the hosts that timed out. Trouble is harmless: entries expire by themselves."""
    try:
        fd = open_write(path)
        try:
            write_all(fd, bytes(TCPTO_SIZE))
        finally:
            os.close(fd)
    except OSError:
        return


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve until descriptor 0 ends; 111 when it cannot start."""
    begun = begin(environ)
    if begun is None:
        return 111
    home, accounts, limit = begun
    wipe_tcpto(home + "/queue/lock/tcpto")
    loop = Loop()
    channel = RemoteChannel(loop, home, environ, limit)
    owner = accounts.uid_queue
    Spawner(loop, channel, spawn_limit=limit, message_owner=owner, delivery_s=DELIVERY_S, joiner=channel).run()
    return 0
