"""The engine that qmail-lspawn and qmail-rspawn share: commands in, deliveries run, reports out (qmail-lspawn(8)).

    command ─► checks ─► message opened ─► channel starts a program ─► status AND end of output ─► report

Only the checks here stand between qmail-send and root: nothing that came through the pipe is trusted. A delivery is
over when its program's status is known *and* nobody holds its output pipe any more; its slot is taken until then.
"""

import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

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
from pyqmail.system.files import open_read
from pyqmail.system.loop import Loop
from pyqmail.system.process import plug_standard_descriptors
from pyqmail.warm.batch import Batches

Done = Callable[[int | None], None]
Stop = Callable[[], None]
Append = Callable[[bytearray, bytes], None]
MESSAGE_NAME_MAX = 99  # the reference's buffer is 100, NUL included
READ_SIZE = 16384
OUTPUT_MAX = 16 << 20  # bytes; a program that says more finds its pipe closed: nobody would read that
SIZE_PACE = 1024  # bytes of a message for each further second of a delivery
LOOK_S = 60.0  # from one look for deliveries that never end to the next
TOO_SLOW = b"ZThis delivery took too long and was ended. (#4.4.7)\n"
AGAIN_S = 1.0  # after a report could not be written, for other reasons than that nobody reads
WATCH_SECONDS = 0.05  # a program that is done by then has its output read when it ends


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


class Collector:
    """A program's output pipe: calls ``done(status, output)`` once its status is in and the pipe has ended.

    ``output`` is the write end, which passes to whoever runs the program. Raises OSError when there is no pipe.
    """

    def __init__(self, loop: Loop, append: Append, done: Callable[[int | None, bytes], None]) -> None:
        self._loop = loop
        self._append = append
        self._done = done
        self._stored = bytearray()
        self._status: int | None = None
        self._has_status = False
        self._read = 0  # bytes
        self.stop: Stop | None = None  # ends the program
        self.given_up = False
        self._fd, self.output = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._watched = False
        self._timer = loop.call_later(WATCH_SECONDS, self._watch)

    def ended(self, status: int | None) -> None:
        """The program is gone with ``status`` (None: killed)."""
        self._status = status
        self._has_status = True
        while self._fd >= 0 and self._readable():
            pass
        if self._fd >= 0:
            self._watch()
        self._finish()

    def give_up(self) -> None:
        """End the program, if it runs, and wait for its output no longer."""
        self.given_up = True
        if self.stop is not None and not self._has_status:
            self.stop()
        if self._fd >= 0:
            self._close()
            self._finish()

    def cancel(self) -> None:
        """Nothing was started: forget the pipe. The write end is closed too."""
        self._close()
        os.close(self.output)

    def _watch(self) -> None:
        """Read what comes from now on, or the end: somebody may keep the pipe after the program."""
        if self._fd < 0 or self._watched:
            return
        self._timer.cancel()
        self._watched = True
        self._loop.add_reader(self._fd, self._heard)

    def _heard(self) -> None:
        self._readable()
        self._finish()

    def _readable(self) -> bool:
        """Take what is in the pipe; false when nothing is."""
        try:
            data = os.read(self._fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        self._read += len(data)
        if data:
            self._append(self._stored, data)
        if not data or self._read > OUTPUT_MAX:
            self._close()
        return True

    def _close(self) -> None:
        self._timer.cancel()
        if self._watched:
            self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _finish(self) -> None:
        if self._has_status and self._fd < 0:
            self._done(self._status, bytes(self._stored))


class _Refused(Exception):
    """A command that does not become a delivery: letter and text of its report."""

    def __init__(self, letter: bytes, text: bytes) -> None:
        super().__init__(letter, text)
        self.letter = letter
        self.text = text


def check_message_name(name: bytes) -> None:
    """Digits and slashes only, so that nothing outside queue/mess can be named. Raises _Refused."""
    if name.startswith(b"/") or name.translate(None, b"0123456789/"):
        raise _Refused(FAILURE, b"Internal error: message name has invalid characters. (#5.3.5)\n")
    if len(name) > MESSAGE_NAME_MAX:
        raise _Refused(FAILURE, b"Internal error: message name is too long. (#5.3.5)\n")
    if not name:
        raise _Refused(FAILURE, b"Internal error: message name is empty. (#5.3.5)\n")


def open_message(name: bytes, owner: int) -> tuple[int, int]:
    """The message file ``name`` below the current directory, if qmail-queue wrote it, and its size. Raises _Refused."""
    try:
        fd = open_read(name)
    except OSError:
        raise _Refused(DEFERRAL, b"Unable to open message. (#4.3.0)\n") from None
    try:
        try:
            status = os.fstat(fd)
        except OSError:
            raise _Refused(DEFERRAL, b"Unable to stat message. (#4.3.0)\n") from None
        if not stat.S_ISREG(status.st_mode):
            raise _Refused(DEFERRAL, b"Message is no regular file. (#4.3.5)\n")
        if status.st_uid != owner:
            raise _Refused(DEFERRAL, b"Message file has a wrong owner. (#4.3.5)\n")
    except _Refused:
        os.close(fd)
        raise
    return fd, status.st_size


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
        self._delivery_s = delivery_s  # that a whole delivery may take, and a second more for each SIZE_PACE bytes
        self._running: dict[int, tuple[float, Collector]] = {}  # by one of its slots: when it is given up
        self._looking = False
        self._out = bytearray()
        self._reading = True
        self._writing = True

    def run(self) -> None:
        """Serve until the commands end, every delivery has been reported and the reports are written."""
        self._nonblocking_output()
        self._send(bytes((self._limit,)))
        try:
            self._loop.add_reader(0, self._readable)
        except PermissionError:  # a file or /dev/null: never blocks, and cannot be watched
            while self._reading:
                self._readable()
        while self._reading or self._busy or self._out:
            if self._reading or self._busy:
                self._loop.run_once()
            else:
                self._writable()
                if self._out:
                    self._loop.run_once()
        self._channel.close()

    def _nonblocking_output(self) -> None:
        try:
            flags = fcntl.fcntl(1, fcntl.F_GETFL)
            fcntl.fcntl(1, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise  # alive and without a voice it would hold every slot for ever
            self._writing = False

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
            self._send(format_probe_answer(self._wide_limit))
            self._parser.wide = True
            self._limit = self._wide_limit
            return
        try:
            if command.out_of_memory:
                raise MemoryError
            self._deliver(command)
        except _Refused as refused:
            self._report(command.slot, refused.letter + refused.text)
        except MemoryError:
            self._report(command.slot, b"ZOut of memory. (#4.3.0)\n")

    def _deliver(self, command: Command) -> None:
        slot = command.slot
        if slot >= self._limit:
            raise _Refused(DEFERRAL, b"Internal error: slot number is out of range. (#4.3.5)\n")
        if slot in self._busy:
            raise _Refused(DEFERRAL, b"Internal error: slot number is in use. (#4.3.5)\n")
        check_message_name(command.message)
        if b"@" not in command.recipient:
            raise _Refused(FAILURE, b"Recipient address has no host name. (#5.1.3)\n")
        if self._joiner is not None:
            key, most = self._joiner.group(command)
            if most > 1:
                self._busy.add(slot)
                self._batches.add(key, command, most)
                return
        message, size = open_message(command.message, self._message_owner)
        try:
            collector = Collector(self._loop, self._channel.append, lambda status, out: self._over(slot, status, out))
        except OSError:
            os.close(message)
            raise _Refused(DEFERRAL, b"Unable to create pipe. (#4.3.0)\n") from None
        self._busy.add(slot)
        try:
            self._limit_time(slot, size, collector)
            collector.stop = self._channel.start(command, message, collector.output, collector.ended)
        except OSError:
            self._busy.discard(slot)
            self._running.pop(slot, None)
            collector.cancel()
            os.close(message)
            raise _Refused(DEFERRAL, b"Unable to fork. (#4.3.0)\n") from None

    def _start_together(self, key: Hashable, commands: Sequence[Command]) -> None:
        try:
            message, size = open_message(commands[0].message, self._message_owner)
            self._run_together(key, commands, message, size)
        except _Refused as refused:
            self._over_together(key, commands, [refused.letter + refused.text] * len(commands))

    def _run_together(self, key: Hashable, commands: Sequence[Command], message: int, size: int) -> None:
        joiner = self._joiner
        assert joiner is not None
        first = commands[0].slot

        def over(status: int | None, output: bytes) -> None:
            reports = joiner.reports(status, output, commands)
            late = self._running.pop(first)[1].given_up and status is None
            self._over_together(key, commands, [TOO_SLOW] * len(commands) if late else reports)

        try:
            collector = Collector(self._loop, self._channel.append, over)
        except OSError:
            os.close(message)
            raise _Refused(DEFERRAL, b"Unable to create pipe. (#4.3.0)\n") from None
        try:
            self._limit_time(first, size, collector)
            collector.stop = joiner.start_together(commands, message, collector.output, collector.ended)
        except OSError:
            self._running.pop(first, None)
            collector.cancel()
            os.close(message)
            raise _Refused(DEFERRAL, b"Unable to fork. (#4.3.0)\n") from None

    def _over_together(self, key: Hashable, commands: Sequence[Command], reports: Sequence[bytes | None]) -> None:
        wire = b""
        for command, report in zip(commands, reports, strict=True):
            if report is None:
                self._batches.add(key, command, len(commands))
                continue
            self._busy.discard(command.slot)
            wire += format_report(command.slot, report[:1], report[1:], wide=self._parser.wide)
        self._send(wire)
        self._batches.ended(key)

    def _over(self, slot: int, status: int | None, output: bytes) -> None:
        self._busy.discard(slot)
        late = self._running.pop(slot)[1].given_up and status is None
        self._report(slot, TOO_SLOW if late else self._channel.report(status, output))

    def _limit_time(self, slot: int, size: int, collector: Collector) -> None:
        """Give the delivery up when it has taken too long: one look a minute at all of them."""
        self._running[slot] = time.monotonic() + self._delivery_s + size / SIZE_PACE, collector
        if not self._looking:
            self._looking = True
            self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for late in [collector for until, collector in self._running.values() if until <= now]:
            late.give_up()
        self._looking = bool(self._running)
        if self._looking:
            self._loop.call_later(LOOK_S, self._look)

    def _report(self, slot: int, report: bytes) -> None:
        self._send(format_report(slot, report[:1], report[1:], wide=self._parser.wide))

    def _send(self, data: bytes) -> None:
        if not self._writing:
            return
        if not self._out:
            self._loop.before_wait(self._writable)
        self._out += data

    def _writable(self) -> None:
        """Write what the pipe takes; a broken pipe ends the reports and not the work."""
        try:
            while self._out:
                del self._out[: os.write(1, self._out)]
        except InterruptedError:
            pass
        except BlockingIOError:
            self._loop.add_writer(1, self._writable)
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EBADF):  # a report that is lost holds its slot for ever
                self._loop.remove_writer(1)
                self._loop.call_later(AGAIN_S, self._writable)
                return
            self._writing = False
            self._out.clear()
        self._loop.remove_writer(1)


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
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return begun
