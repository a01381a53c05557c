"""The engine that qmail-lspawn and qmail-rspawn share: commands in, deliveries run, reports out (qmail-lspawn(8)).

    command ─► checks ─► message opened ─► channel starts a program ─► status AND end of output ─► report

Only the checks here stand between qmail-send and root: nothing that came through the pipe is trusted. A delivery is
over when its program's status is known *and* nobody holds its output pipe any more; its slot is taken until then.
"""

import fcntl
import os
import signal
import stat
from collections.abc import Callable
from typing import Protocol

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

Done = Callable[[int | None], None]
Append = Callable[[bytearray, bytes], None]
MESSAGE_NAME_MAX = 99  # the reference's buffer is 100, NUL included
READ_SIZE = 16384


class Channel(Protocol):
    """What differs between the local and the remote spawner."""

    def start(self, command: Command, message: int, output: int, done: Done) -> None:
        """Run the delivery and own both descriptors; ``done`` gets the status. OSError: not started, not owned."""

    def append(self, stored: bytearray, data: bytes) -> None:
        """Keep ``data`` of a delivery's output."""

    def report(self, status: int | None, output: bytes) -> bytes:
        """Letter and text for an ended delivery."""

    def close(self) -> None:
        """No more deliveries."""


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
        self._fd, self.output = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(self._fd, False)
            loop.add_reader(self._fd, self._readable)
        except OSError:
            os.close(self._fd)
            os.close(self.output)
            raise

    def ended(self, status: int | None) -> None:
        """The program is gone with ``status`` (None: killed)."""
        self._status = status
        self._has_status = True
        self._finish()

    def cancel(self) -> None:
        """Nothing was started: forget the pipe. The write end is closed too."""
        self._close()
        os.close(self.output)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._append(self._stored, data)
            return
        self._close()
        self._finish()

    def _close(self) -> None:
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


def open_message(name: bytes, owner: int) -> int:
    """The message file ``name`` below the current directory, if qmail-queue wrote it. Raises _Refused."""
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
    return fd


class Spawner:
    """One spawner process: descriptor 0 takes commands, descriptor 1 gives the limit byte and reports."""

    def __init__(self, loop: Loop, channel: Channel, *, spawn_limit: int, message_owner: int) -> None:
        self._loop = loop
        self._channel = channel
        self._wide_limit = min(spawn_limit, WIDE_LIMIT_MAX)
        self._limit = min(spawn_limit, LIMIT_MAX)
        self._message_owner = message_owner
        self._parser = CommandParser()
        self._busy: set[int] = set()
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
            self._loop.run_once()
        self._channel.close()

    def _nonblocking_output(self) -> None:
        try:
            flags = fcntl.fcntl(1, fcntl.F_GETFL)
            fcntl.fcntl(1, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        except OSError:
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
        message = open_message(command.message, self._message_owner)
        try:
            collector = Collector(self._loop, self._channel.append, lambda status, out: self._over(slot, status, out))
        except OSError:
            os.close(message)
            raise _Refused(DEFERRAL, b"Unable to create pipe. (#4.3.0)\n") from None
        self._busy.add(slot)
        try:
            self._channel.start(command, message, collector.output, collector.ended)
        except OSError:
            self._busy.discard(slot)
            collector.cancel()
            os.close(message)
            raise _Refused(DEFERRAL, b"Unable to fork. (#4.3.0)\n") from None

    def _over(self, slot: int, status: int | None, output: bytes) -> None:
        self._busy.discard(slot)
        self._report(slot, self._channel.report(status, output))

    def _report(self, slot: int, report: bytes) -> None:
        self._send(format_report(slot, report[:1], report[1:], wide=self._parser.wide))

    def _send(self, data: bytes) -> None:
        if not self._writing:
            return
        self._out += data
        self._writable()

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
        except OSError:
            self._writing = False
            self._out.clear()
        self._loop.remove_writer(1)


def prepare_signals() -> None:
    """A broken pipe is an error and no death; children can be waited for whatever the caller ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
