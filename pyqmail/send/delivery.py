"""One channel's passes and deliveries (qmail-send(8)).

A pass reads the recipient file of one message and starts a delivery for each recipient not done, as slots become
free.  A message goes back to the schedule when its pass has ended *and* its last delivery has reported.  A failure is
first durable in bounce/N, only then marked done: whatever the machine dies on, the recipient is still in the queue, in
the bounce, or in both.
"""

import errno
import heapq
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pyqmail.formats.bounce_text import format_paragraph
from pyqmail.formats.logline import safe
from pyqmail.policy.classify import strip_prepend, variable_sender
from pyqmail.protocol import spawn
from pyqmail.send.background import Background
from pyqmail.send.controls import Controls
from pyqmail.send.log import Line
from pyqmail.spool.channel import RecipientFile, UnknownMark, mark_done
from pyqmail.spool.layout import Layout
from pyqmail.spool.retry import ROOT_STEP, TROUBLE_S, Schedule, next_retry
from pyqmail.system import files
from pyqmail.system.loop import Loop

RECORDS_PER_TURN = 64
SLEEP_S = 10
_GIVE_UP = b"I'm not going to try again; this message has been in the queue too long.\n"


@dataclass(slots=True)
class Job:
    """A message that a pass has begun: ``open`` deliveries and unfinished marks hold it."""

    number: int
    sender: bytes
    retry: int
    dying: bool
    open: int = 0
    not_done: int = 0
    at_end: bool = False
    passing: bool = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """One recipient on its way."""

    job: Job
    serial: int
    offset: int
    recipient: bytes


class Owner(Protocol):
    """What a channel needs of the daemon."""

    controls: Controls
    exiting: bool

    def next_serial(self) -> int:
        """The number of the next delivery in the log."""

    def status(self) -> bytes:
        """The status line."""

    def channel_empty(self, name: str, number: int) -> None:
        """The last recipient of ``number`` in this channel is done."""

    def spawner_lost(self) -> None:
        """Nothing more can be delivered here."""


class Slots:
    """The lowest free number below a limit that may change."""

    def __init__(self) -> None:
        self.used: dict[int, Delivery] = {}
        self._free: list[int] = []
        self._next = 0

    def take(self, delivery: Delivery) -> int:
        """The slot now used by ``delivery``."""
        if self._free:
            slot = heapq.heappop(self._free)
        else:
            slot, self._next = self._next, self._next + 1
        self.used[slot] = delivery
        return slot

    def release(self, slot: int) -> Delivery | None:
        """The delivery of ``slot``, which is free now; None if it was not used."""
        delivery = self.used.pop(slot, None)
        if delivery is not None:
            heapq.heappush(self._free, slot)
        return delivery


class ChannelPasses:
    """The schedule, the passes and the spawner of one channel."""

    def __init__(
        self,
        name: str,
        loop: Loop,
        layout: Layout,
        owner: Owner,
        background: Background,
        log: Line,
        *,
        commands: int,
        reports: int,
    ) -> None:
        self.name = name
        self.schedule = Schedule()
        self.alive = True
        self.slots = Slots()
        self._limit = 0
        self._loop = loop
        self._layout = layout
        self._owner = owner
        self._background = background
        self._log = log
        self._commands = commands
        self._reports = reports
        self._parser = spawn.ReportParser()
        self._out = b""
        self._probing = False
        self._pass: tuple[Job, RecipientFile] | None = None
        self._failed: list[Delivery] = []
        self._syncing = False
        self._held = 0

    def start(self, limit: int) -> None:
        """Begin to serve with the spawner's ``limit``; ask for a wide one where that would help."""
        self._limit = limit
        os.set_blocking(self._commands, False)
        self._loop.add_reader(self._reports, self._read)
        if limit == spawn.LIMIT_MAX and self._owner.controls.concurrency[self.name] > limit:
            self._probing = True
            self._send(spawn.format_probe())

    @property
    def limit(self) -> int:
        """The most deliveries at once."""
        return min(self._owner.controls.concurrency[self.name], self._limit)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way, so that the daemon may exit."""
        return not self.alive or not (self.slots.used or self._failed or self._held or self._syncing)

    def next_time(self) -> float:
        """When there is something to do for ``step``."""
        if not self._ready():
            return float("inf")
        if self._pass is not None:
            return 0
        when = self.schedule.next_time()
        return float("inf") if when is None else when

    def step(self, now: float) -> None:
        """Start deliveries while slots are free, a bounded number at a time."""
        for _ in range(RECORDS_PER_TURN):
            if not self._ready():
                return
            if self._pass is None and not self._begin(int(now)):
                return
            self._next_recipient()

    def save_times(self) -> None:
        """Write when each waiting message is due into its file, for the next start."""
        for number, when in self.schedule.items():
            try:
                files.set_times(self._path(number), when)
            except OSError:
                name = self._relative(number)
                self._log(b"warning: unable to utime %b; message will be retried too soon" % name)

    def _path(self, number: int) -> str:
        return self._layout.part(self.name, number)

    def _relative(self, number: int) -> bytes:
        return self._layout.relative(self.name, number).encode()

    def _ready(self) -> bool:
        if self._owner.exiting:
            return False
        return self.alive and not self._probing and not self._out and len(self.slots.used) < self.limit

    # passes

    def _begin(self, now: int) -> bool:
        number = self.schedule.pop_due(now)
        if number is None:
            return False
        try:
            sender, birth = _read_info(self._layout.info(number))
            recipients = RecipientFile(self._path(number))
        except OSError:
            self._log(b"warning: trouble opening %b; will try again later" % self._relative(number))
            self.schedule.add(number, now + TROUBLE_S)
            return False
        retry = next_retry(birth, now, ROOT_STEP[self.name])
        job = Job(number, sender, retry, now > birth + self._owner.controls.lifetime_s)
        self._pass = (job, recipients)
        return True

    def _next_recipient(self) -> None:
        assert self._pass is not None
        job, recipients = self._pass
        try:
            found = recipients.next_not_done()
        except UnknownMark:
            self._log(b"warning: unknown record type in %b!" % self._relative(job.number))
            self._end_pass()
            return
        except OSError:
            self._log(b"warning: trouble reading %b; will try again later" % self._relative(job.number))
            self._end_pass()
            return
        if found is None:
            job.at_end = True
            self._end_pass()
            return
        self._start(job, *found)

    def _start(self, job: Job, offset: int, recipient: bytes) -> None:
        job.open += 1
        job.not_done += 1
        delivery = Delivery(job, self._owner.next_serial(), offset, recipient)
        slot = self.slots.take(delivery)
        self._log(
            b"starting delivery %d: msg %d to %b %b\n%b"
            % (delivery.serial, job.number, self.name.encode(), safe(recipient), self._owner.status())
        )
        message = b"%d/%d" % (job.number % self._layout.split, job.number)
        sender = variable_sender(job.sender, recipient)
        self._send(spawn.format_command(slot, message, sender, recipient, wide=self._parser.wide))

    def _end_pass(self) -> None:
        assert self._pass is not None
        job, recipients = self._pass
        self._pass = None
        recipients.close()
        job.passing = False
        self._settle(job)

    def _settle(self, job: Job) -> None:
        """Reschedule ``job``, or end it in this channel, once nothing holds it."""
        if job.passing or job.open:
            return
        if not job.at_end or job.not_done:
            self.schedule.add(job.number, job.retry)
            return
        try:
            files.unlink(self._path(job.number))
        except OSError:
            self._log(b"warning: unable to unlink %b; will try again later" % self._relative(job.number))
            self.schedule.add(job.number, int(time.time()) + TROUBLE_S)
            return
        self._owner.channel_empty(self.name, job.number)

    # the spawner

    def _send(self, data: bytes) -> None:
        try:
            done = os.write(self._commands, data)
        except BlockingIOError:
            done = 0
        except OSError as error:
            if error.errno == errno.EPIPE:
                self._die()
            return
        if done < len(data):
            if not self._out:
                self._loop.add_writer(self._commands, self._flush)
            self._out = data[done:]

    def _flush(self) -> None:
        data, self._out = self._out, b""
        self._loop.remove_writer(self._commands)
        self._send(data)

    def _read(self) -> None:
        try:
            data = os.read(self._reports, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._die()
            return
        for report in self._parser.feed(data):
            self._report(report)

    def _die(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._reports)
        self._loop.remove_writer(self._commands)
        self._log(b"alert: oh no! lost spawn connection! dying...")
        self._owner.spawner_lost()

    def _report(self, report: spawn.Report) -> None:
        if self._probing and report.slot == spawn.PROBE_SLOT:
            self._probing = False
            limit = spawn.parse_probe_answer(report)
            if limit is not None:
                self._parser.wide = True
                self._limit = limit
            return
        delivery = self.slots.release(report.slot)
        if delivery is None:
            self._log(b"warning: internal error: delivery report out of range")
            return
        letter, text = report.letter, report.text
        if letter == spawn.DEFERRAL and delivery.job.dying:
            letter, text = spawn.FAILURE, text + _GIVE_UP
        self._log(b"delivery %d: %b\n%b" % (delivery.serial, _outcome(letter, text), self._owner.status()))
        if letter == spawn.SUCCESS:
            self._done(delivery)
        elif letter == spawn.FAILURE:
            self._held += 1
            self._append_bounce(delivery, text)
        else:
            self._release(delivery.job)

    def _release(self, job: Job) -> None:
        job.open -= 1
        self._settle(job)

    def _done(self, delivery: Delivery) -> None:
        job = delivery.job
        try:
            mark_done(self._path(job.number), delivery.offset)
        except OSError:
            name = self._relative(job.number)
            self._log(b"warning: trouble marking %b; message will be delivered twice!" % name)
        job.not_done -= 1
        self._release(job)

    # failures

    def _append_bounce(self, delivery: Delivery, text: bytes) -> None:
        address = strip_prepend(delivery.recipient, self._owner.controls.routing.virtual)
        try:
            _append(self._layout.bounce(delivery.job.number), format_paragraph(address, text))
        except OSError:
            self._log(b"alert: unable to append to bounce message; HELP! sleeping...")
            self._loop.call_later(SLEEP_S, lambda: self._append_bounce(delivery, text))
            return
        self._held -= 1
        self._failed.append(delivery)
        self._sync_bounces()

    def _sync_bounces(self) -> None:
        """Make the paragraphs written so far durable, all in one go, and then mark their recipients."""
        if self._syncing or not self._failed:
            return
        batch, self._failed = self._failed, []
        self._syncing = True
        paths = {delivery.job.number: self._layout.bounce(delivery.job.number) for delivery in batch}
        folder = self._layout.queue + "/bounce"

        def sync() -> Callable[[], None]:
            troubled = _sync_bounce_files(paths, folder)
            return lambda: self._bounces_synced(batch, troubled)

        self._background.submit(sync)

    def _bounces_synced(self, batch: list[Delivery], troubled: set[int]) -> None:
        self._syncing = False
        for delivery in batch:
            if delivery.job.number in troubled:
                # not believed, so not marked: tried again later, and the paragraph may appear twice
                self._log(b"alert: trouble fsyncing bounce/%d; will try again later" % delivery.job.number)
                self._release(delivery.job)
            else:
                self._done(delivery)
        self._sync_bounces()


def _outcome(letter: bytes, text: bytes) -> bytes:
    match letter:
        case spawn.SUCCESS:
            return b"success: " + safe(text)
        case spawn.DEFERRAL:
            return b"deferral: " + safe(text)
        case spawn.FAILURE:
            return b"failure: " + safe(text)
        case _:
            return b"report mangled, will defer"


def _read_info(path: str) -> tuple[bytes, int]:
    """Sender and birth of a message."""
    fd = files.open_read(path)
    try:
        data = b""
        while chunk := os.read(fd, 4096):
            data += chunk
        birth = int(os.fstat(fd).st_mtime)
    finally:
        os.close(fd)
    if data[:1] != b"F" or not data.endswith(b"\0"):
        raise OSError(errno.EIO, "no sender in info file")
    return data[1:].split(b"\0", 1)[0], birth


def _append(path: str, data: bytes) -> None:
    """Append all of ``data``, or nothing."""
    fd = files.open_append(path)
    try:
        size = os.fstat(fd).st_size
        try:
            files.write_all(fd, data)
        except OSError:
            files.truncate(fd, size)
            raise
    finally:
        os.close(fd)


def _sync_bounce_files(paths: dict[int, str], folder: str) -> set[int]:
    """Sync files and their directory; the numbers of those that cannot be relied on."""
    troubled: set[int] = set()
    for number, path in paths.items():
        try:
            fd = files.open_write(path)
            try:
                files.sync(fd)
            finally:
                os.close(fd)
        except OSError:
            troubled.add(number)
    try:
        files.sync_directory(folder)
    except OSError:
        troubled.update(paths)
    return troubled
