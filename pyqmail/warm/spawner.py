"""The engine that qmail-lspawn and qmail-rspawn share: commands in, deliveries run, reports out (qmail-lspawn(8)).

    command ─► checks ─► message opened ─► channel starts a program ─► status AND end of output ─► report

Only the checks here stand between qmail-send and root: nothing that came through the pipe is trusted. A delivery is
over when its program's status is known *and* nobody holds its output pipe any more; its slot is taken until then.
"""

import os
import signal
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from pyqmail.control import ControlUnreadable, home_of, read_knobs
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts
from pyqmail.protocol.spawn import (
    DEFERRAL,
    FAILURE,
    LIMIT_MAX,
    WIDE_LIMIT_MAX,
    Command,
    CommandParser,
    format_probe_answer,
    format_report,
)
from pyqmail.spool.layout import MARK
from pyqmail.system.loop import Loop
from pyqmail.system.process import default_signals, ignore_signals, plug_standard_descriptors
from pyqmail.system.typed import Protocol
from pyqmail.warm.batch import Batches
from pyqmail.warm.collector import READ_SIZE, Collector, Done, Stop
from pyqmail.warm.message_file import Refused, check_message_name, open_message
from pyqmail.warm.reports import Reports
from pyqmail.warm.time_limits import TimeLimits

TOO_SLOW = b"ZThis delivery took too long and was ended. (#4.4.7)\n"


class Channel(Protocol):
    """What differs between the local and the remote spawner."""

    def start(self, command: Command, message: int, output: int, done: Done) -> Stop:
        """Run the delivery and own both descriptors; ``done`` gets the status. OSError: not started, not owned.

        What it returns ends the program, if that still runs; ``done`` is called all the same.
        """

    def append(self, stored: bytearray, data: bytes) -> None:
        """Keep ``data`` of a delivery's output."""

    def report(self, status: int | None, output: bytes) -> bytes:
        """Letter and text for an ended delivery."""

    def close(self) -> None:
        """No more deliveries."""


class Joiner(Protocol):
    """What else a channel knows that can make several deliveries together (control/remotebatch)."""

    def group(self, command: Command) -> tuple[Hashable, int]:
        """What all deliveries have in common that may go with this one, and how many may at most; 1: it goes alone."""

    def start_together(self, commands: Sequence[Command], message: int, output: int, done: Done) -> Stop:
        """As `Channel.start`, for all of one group."""

    def reports(self, status: int | None, output: bytes, commands: Sequence[Command]) -> list[bytes | None]:
        """The report of each; None when it should be tried again at once."""


def _with_facts(command: Command, message: os.stat_result) -> Command:
    """``command``, knowing whether its ``message`` has facts beside its envelope."""
    return replace(command, has_facts=True) if message.st_mode & MARK else command


class Spawner:
    """One spawner process: descriptor 0 takes commands, descriptor 1 gives the limit byte and reports."""

    def __init__(
        self,
        loop: Loop,
        channel: Channel,
        *,
        spawn_limit: int,
        message_owner: int,
        delivery_s: float,
        joiner: Joiner | None = None,
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._joiner = joiner
        self._batches = Batches(loop, self._start_together)
        self._wide_limit = min(spawn_limit, WIDE_LIMIT_MAX)
        self._limit = min(spawn_limit, LIMIT_MAX)
        self._message_owner = message_owner
        self._parser = CommandParser()
        self._busy: set[int] = set()
        self._limits = TimeLimits(loop, delivery_s)
        self._reports = Reports(loop)
        self._reading = True

    def run(self) -> None:
        """Serve until the commands end, every delivery has been reported and the reports are written."""
        self._reports.open()
        self._reports.send(bytes((self._limit,)))
        try:
            self._loop.add_reader(0, self._readable)
        except PermissionError:  # a file or /dev/null: never blocks, and cannot be watched
            while self._reading:
                self._readable()
        while self._reading or self._busy or self._reports.pending:
            if self._reading or self._busy:
                self._loop.run_once()
            else:
                self._reports.write()
                if self._reports.pending:
                    self._loop.run_once()
        self._channel.close()

    def _readable(self) -> None:
        try:
            data = os.read(0, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._reading = False
            self._loop.remove_reader(0)
            return
        for command in self._parser.feed(data):
            self._command(command)

    def _command(self, command: Command) -> None:
        if command.probe and not self._parser.wide:
            self._reports.send(format_probe_answer(self._wide_limit))
            self._parser.wide = True
            self._limit = self._wide_limit
            return
        try:
            if command.out_of_memory:
                raise MemoryError
            self._deliver(command)
        except Refused as refused:
            self._report(command.slot, refused.letter + refused.text)
        except MemoryError:
            self._report(command.slot, b"ZOut of memory. (#4.3.0)\n")

    def _deliver(self, command: Command) -> None:
        slot = command.slot
        if slot >= self._limit:
            raise Refused(DEFERRAL, b"Internal error: slot number is out of range. (#4.3.5)\n")
        if slot in self._busy:
            raise Refused(DEFERRAL, b"Internal error: slot number is in use. (#4.3.5)\n")
        check_message_name(command.message)
        if b"@" not in command.recipient:
            raise Refused(FAILURE, b"Recipient address has no host name. (#5.1.3)\n")
        if self._joiner is not None:
            key, most = self._joiner.group(command)
            if most > 1:
                self._busy.add(slot)
                self._batches.add(key, command, most)
                return
        message, status = open_message(command.message, self._message_owner)
        command = _with_facts(command, status)
        try:
            collector = Collector(self._loop, self._channel.append, lambda status, out: self._over(slot, status, out))
        except OSError:
            os.close(message)
            raise Refused(DEFERRAL, b"Unable to create pipe. (#4.3.0)\n") from None
        self._busy.add(slot)
        try:
            self._limits.begin(slot, status.st_size, collector)
            collector.stop = self._channel.start(command, message, collector.output, collector.ended)
        except OSError:
            self._busy.discard(slot)
            self._limits.drop(slot)
            collector.cancel()
            os.close(message)
            raise Refused(DEFERRAL, b"Unable to fork. (#4.3.0)\n") from None

    def _start_together(self, key: Hashable, commands: Sequence[Command]) -> None:
        try:
            message, status = open_message(commands[0].message, self._message_owner)
            commands = [_with_facts(command, status) for command in commands]
            self._run_together(key, commands, message, status.st_size)
        except Refused as refused:
            self._over_together(key, commands, [refused.letter + refused.text] * len(commands))

    def _run_together(self, key: Hashable, commands: Sequence[Command], message: int, size: int) -> None:
        joiner = self._joiner
        assert joiner is not None
        first = commands[0].slot

        def over(status: int | None, output: bytes) -> None:
            reports = joiner.reports(status, output, commands)
            late = self._limits.ended_late(first, status)
            self._over_together(key, commands, [TOO_SLOW] * len(commands) if late else reports)

        try:
            collector = Collector(self._loop, self._channel.append, over)
        except OSError:
            os.close(message)
            raise Refused(DEFERRAL, b"Unable to create pipe. (#4.3.0)\n") from None
        try:
            self._limits.begin(first, size, collector)
            collector.stop = joiner.start_together(commands, message, collector.output, collector.ended)
        except OSError:
            self._limits.drop(first)
            collector.cancel()
            os.close(message)
            raise Refused(DEFERRAL, b"Unable to fork. (#4.3.0)\n") from None

    def _over_together(self, key: Hashable, commands: Sequence[Command], reports: Sequence[bytes | None]) -> None:
        wire = b""
        for command, report in zip(commands, reports, strict=True):
            if report is None:
                self._batches.add(key, command, len(commands))
                continue
            self._busy.discard(command.slot)
            wire += format_report(command.slot, report[:1], report[1:], wide=self._parser.wide)
        self._reports.send(wire)
        self._batches.ended(key)

    def _over(self, slot: int, status: int | None, output: bytes) -> None:
        self._busy.discard(slot)
        late = self._limits.ended_late(slot, status)
        self._report(slot, TOO_SLOW if late else self._channel.report(status, output))

    def _report(self, slot: int, report: bytes) -> None:
        self._reports.send(format_report(slot, report[:1], report[1:], wide=self._parser.wide))


def begin(environ: Mapping[bytes, bytes]) -> tuple[str, Accounts, int] | None:
    """Make this process a spawner in queue/mess: its home, accounts and deliveries at once; None when it cannot be.

    A broken pipe is an error and no death; children can be waited for whatever the caller ignored.
    """
    plug_standard_descriptors()
    home = home_of(environ)
    try:
        os.chdir(home)
        os.chdir("queue/mess")
        begun = home, read_accounts(home), read_knobs(home).spawn
    except (OSError, AccountMissing, ControlUnreadable):
        return None
    ignore_signals(signal.SIGPIPE)
    default_signals(signal.SIGCHLD)
    return begun
