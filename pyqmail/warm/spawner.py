"""The engine that qmail-lspawn and qmail-rspawn share: commands in, deliveries run, reports out (qmail-lspawn(8)).

    command ─► checks ─► message opened ─► channel starts a program ─► status AND end of output ─► report

Only the checks here stand between qmail-send and root: nothing that came through the pipe is trusted. A delivery is
over when its program's status is known *and* nobody holds its output pipe any more; its slot is taken until then. A
program in a warm worker may tell its output with its status, and has no pipe before it has a child.
"""

import os
import signal
from collections.abc import Callable, Hashable, Mapping, Sequence

from pyqmail.control import ControlUnreadable, home_of, read_knobs
from pyqmail.policy.accounts import AccountMissing, Accounts, read_accounts
from pyqmail.protocol.spawn import (
    DEFERRAL,
    LIMIT_MAX,
    WIDE_LIMIT_MAX,
    Command,
    CommandParser,
    format_probe_answer,
)
from pyqmail.spool.layout import MARK
from pyqmail.system.loop import Loop
from pyqmail.system.process import default_signals, ignore_signals, plug_standard_descriptors
from pyqmail.system.stamp import Glance
from pyqmail.system.typed import Protocol
from pyqmail.warm.batch import Batches
from pyqmail.warm.collector import READ_SIZE, Collector, Done, NoPipe, Output, Stop
from pyqmail.warm.message_file import Refused, check_message_name, open_message
from pyqmail.warm.reports import Reports
from pyqmail.warm.slots import Slots
from pyqmail.warm.time_limits import ENDED, TimeLimits

Over = Callable[[list[Command]], None]

NO_HOST = b"DRecipient address has no host name. (#5.1.3)\n"
NO_MEMORY = b"ZOut of memory. (#4.3.0)\n"


class Channel(Protocol):
    """What differs between the local and the remote spawner."""

    def start(self, command: Command, message: int, output: Output, done: Done) -> Stop:
        """Run the delivery and own ``message``; ``done`` gets the status. OSError: not started, not owned.

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

    def together(self) -> int:
        """How many recipients one command may have; 1 where they would not be delivered to together."""

    def group(self, command: Command) -> tuple[Hashable, int]:
        """What all deliveries have in common that may go with this one, and how many may at most; 1: it goes alone."""

    def start_together(self, commands: Sequence[Command], message: int, output: Output, done: Done) -> Stop:
        """As `Channel.start`, for all of one group."""

    def reports(self, status: int | None, output: bytes, commands: Sequence[Command]) -> list[bytes | None]:
        """The report of each; None when it should be tried again at once."""


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
        glance: Glance | None = None,
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._joiner = joiner
        self._glance = glance or Glance()  # for commands that are read together
        self._batches = Batches(loop, self._start_together)
        self._wide_limit = min(spawn_limit, WIDE_LIMIT_MAX)
        self._limit = min(spawn_limit, LIMIT_MAX)
        self._message_owner = message_owner
        self._parser = CommandParser()
        self._slots = Slots()
        self._limits = TimeLimits(loop, delivery_s)
        self._reports = Reports(loop)
        self._reading = True
        self._may_end = False  # it was granted that commands end deliveries

    def run(self) -> None:
        """Serve until the commands end, every delivery has been reported and the reports are written."""
        self._reports.open()
        self._reports.send(bytes((self._limit,)))
        try:
            self._loop.add_reader(0, self._readable)
        except PermissionError:  # a file or /dev/null: never blocks, and cannot be watched
            while self._reading:
                self._readable()
        while self._reading or self._slots or self._reports.pending:
            if self._reading or self._slots:
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
        self._glance.begin()
        try:
            for command in self._parser.feed(data):
                self._command(command)
        finally:
            self._glance.end()

    def _command(self, command: Command) -> None:
        if command.probe and not self._parser.wide:
            self._widen(command)
            return
        if command.ends and self._may_end:
            self._end(command.slot)
            return
        try:
            if command.out_of_memory:
                raise MemoryError
            self._deliver(command)
        except Refused as refused:
            self._reports.send(self._slots.refuse(command.slot, refused.letter + refused.text))
        except MemoryError:
            self._reports.send(self._slots.refuse(command.slot, NO_MEMORY))

    def _widen(self, probe: Command) -> None:
        """Grant what ``probe`` asks for."""
        asked = probe.asks_for_together and self._joiner is not None
        together = self._joiner.together() if asked and self._joiner is not None else 1
        self._may_end = probe.asks_for_end
        self._reports.send(format_probe_answer(self._wide_limit, together, end=self._may_end))
        self._limit = self._wide_limit
        self._parser.wide = self._slots.wide = True
        self._parser.joint = self._slots.joint = together > 1

    def _end(self, slot: int) -> None:
        """End what runs for ``slot``, and let nothing more of it begin; nothing for a slot that is not in use."""
        if not self._slots.end(slot):
            return
        if waiting := self._batches.take(slot):
            self._answer(waiting, [ENDED] * len(waiting))
        self._limits.end(slot)

    def _still_wanted(self, commands: list[Command]) -> list[Command]:
        """Those of ``commands`` whose slots were not told to end; the others are answered."""
        ended = [command for command in commands if self._slots.ending(command.slot)]
        if not ended:
            return commands
        wanted = [command for command in commands if not self._slots.ending(command.slot)]
        self._answer(ended, [ENDED] * len(ended))
        return wanted

    def _deliver(self, command: Command) -> None:
        slot = command.slot
        if slot >= self._limit:
            raise Refused(DEFERRAL, b"Internal error: slot number is out of range. (#4.3.5)\n")
        if slot in self._slots:
            raise Refused(DEFERRAL, b"Internal error: slot number is in use. (#4.3.5)\n")
        check_message_name(command.message)
        commands = command.apart()
        self._slots.take(slot, len(commands))
        if nowhere := [one for one in commands if b"@" not in one.recipient]:
            self._answer(nowhere, [NO_HOST] * len(nowhere))
            commands = [one for one in commands if b"@" in one.recipient]
        if commands:
            self._begin(commands)

    def _begin(self, commands: list[Command]) -> None:
        """Deliver to the recipients of one slot: together with those of others, or by themselves."""
        key, most = None, 1
        if self._joiner is not None:
            try:
                key, most = self._joiner.group(commands[0])
            except MemoryError:
                self._answer(commands, [NO_MEMORY] * len(commands))
                return
        if 1 < most >= len(commands):
            self._batches.add(key, commands, most)
        else:
            self._in_turn(commands, most)

    def _in_turn(self, commands: list[Command], most: int) -> None:
        """So many of ``commands`` at once, so that their slot never has two programs."""
        later = commands[most:]

        def over(again: list[Command]) -> None:
            if left := self._still_wanted(again + later):
                self._in_turn(left, most)

        self._start(commands[:most], over)

    def _start_together(self, key: Hashable, commands: Sequence[Command]) -> None:
        def over(again: list[Command]) -> None:
            if left := self._still_wanted(again):
                self._batches.add(key, left, len(commands))
            self._batches.ended(key)

        self._start(commands, over)

    def _start(self, commands: Sequence[Command], over: Over) -> None:
        """Run the program for ``commands``. In the end all are answered but those that ``over`` gets."""
        try:
            message, status = open_message(commands[0].message, self._message_owner)
            facts, size = status.st_mode & MARK != 0, status.st_size
            self._run([command.opened(has_facts=facts, size=size) for command in commands], message, size, over)
        except Refused as refused:
            self._answer(commands, [refused.letter + refused.text] * len(commands))
            over([])
        except MemoryError:
            self._answer(commands, [NO_MEMORY] * len(commands))
            over([])

    def _run(self, commands: Sequence[Command], message: int, size: int, over: Over) -> None:
        slot = commands[0].slot

        def ended(status: int | None, output: bytes) -> None:
            reports = self._judge(commands, status, output)
            if instead := self._limits.ended(slot, status):
                reports = [instead] * len(commands)
            told = [(command, report) for command, report in zip(commands, reports, strict=True) if report is not None]
            self._answer([command for command, _ in told], [report for _, report in told])
            over([command for command, report in zip(commands, reports, strict=True) if report is None])

        collector = Collector(self._loop, self._channel.append, ended)
        try:
            self._limits.begin({command.slot for command in commands}, slot, size, collector)
            collector.stop = self._run_program(commands, message, collector)
        except OSError as error:
            self._limits.drop(slot)
            collector.cancel()
            os.close(message)
            what = b"create pipe" if isinstance(error, NoPipe) else b"fork"
            raise Refused(DEFERRAL, b"Unable to " + what + b". (#4.3.0)\n") from None

    def _run_program(self, commands: Sequence[Command], message: int, collector: Collector) -> Stop:
        if self._joiner is not None and len(commands) > 1:
            return self._joiner.start_together(commands, message, collector, collector.ended)
        return self._channel.start(commands[0], message, collector, collector.ended)

    def _judge(self, commands: Sequence[Command], status: int | None, output: bytes) -> Sequence[bytes | None]:
        if self._joiner is not None and len(commands) > 1:
            return self._joiner.reports(status, output, commands)
        return [self._channel.report(status, output)]

    def _answer(self, commands: Sequence[Command], reports: Sequence[bytes]) -> None:
        self._reports.send(self._slots.answer(commands, reports))


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
