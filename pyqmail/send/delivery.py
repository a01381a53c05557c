"""One channel's passes and deliveries (qmail-send(8)).

A pass reads the recipient file of one message and starts a delivery for each recipient not done, as slots become
free.  A message goes back to the schedule when its pass has ended *and* its last delivery has reported.  A failure is
first durable in bounce/N, only then marked done: whatever the machine dies on, the recipient is still in the queue, in
the bounce, or in both.

A recipient whose domain has its limit of deliveries (control/domainconcurrency) is skipped.  If the pass has started
nothing else of that message, the message as a whole waits for the domain, and only its number is in memory; otherwise
the offsets of the skipped recipients wait, since those that were tried must not be tried again so soon; what still
waits when those are due is left to their next pass.

A new message to one recipient is *fresh*: it is offered before it has files in info/ and local/ or remote/, and its
todo/N is what a crash would start again from.  Once delivered it leaves the queue without ever having had them;
anything but success waits until they are durable, and is then acted on as for any other message.
"""

import heapq
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pyqmail.formats.bounce_text import format_paragraph
from pyqmail.formats.logline import safe
from pyqmail.policy.classify import strip_prepend, variable_sender
from pyqmail.protocol import spawn
from pyqmail.send.background import Background
from pyqmail.send.controls import Controls
from pyqmail.send.domains import DomainLines, domain_of
from pyqmail.send.log import Line
from pyqmail.send.metrics import Counters
from pyqmail.spool import sweep
from pyqmail.spool.channel import Pause, RecipientFile, UnknownMark, mark_done, read_info, recipient_at
from pyqmail.spool.history import REPLIES_MAX, History, trimmed
from pyqmail.spool.layout import Layout
from pyqmail.spool.preprocess import New
from pyqmail.spool.retry import ROOT_STEP, TROUBLE_S, Schedule, next_retry
from pyqmail.system import files
from pyqmail.system.loop import Loop, Timer

RECORDS_PER_TURN = 64
SKIPPED_MAX = 50_000  # recipients whose offsets wait for their domains; more wait for their message's next retry
SLEEP_S = 10
FRESH_MAX = 1000  # messages that wait in todo/ for a free slot; more get their files first
_GIVE_UP = b"I'm not going to try again; this message has been in the queue too long.\n"


@dataclass(slots=True)
class Job:
    """A message that a pass has begun: ``open`` deliveries and unfinished marks hold it."""

    number: int
    sender: bytes
    birth: int
    retry: int
    dying: bool
    open: int = 0
    not_done: int = 0
    at_end: bool = False
    passing: bool = True
    fresh: New | None = None  # it has no files but those in mess/ and todo/
    started: bool = False
    skipped: list[tuple[bytes, int]] = field(default_factory=list)  # domain and offset, of this pass
    held: int = 0  # skipped recipients that wait for their domains
    overdue: bool = False  # they wait no longer
    timer: Timer | None = None
    replies: dict[int, bytes] = field(default_factory=dict)  # deferrals of this pass, by offset


@dataclass(frozen=True, slots=True)
class Delivery:
    """One recipient on its way."""

    job: Job
    serial: int
    offset: int
    recipient: bytes


class Oversight(Protocol):
    """Asked before anything is tried, because people may have ordered otherwise (send/interventions.py)."""

    def withholds(self, channel: str, number: int, now: int) -> bool:
        """Whether ``number``, which is due, must not be tried; then it is not ours any more."""

    def stops(self, number: int) -> bool:
        """Whether no further delivery of ``number`` may start."""

    def withholds_recipient(self, recipient: bytes) -> bool:
        """Whether ``recipient`` must not be tried."""

    def settled(self, number: int) -> None:
        """Nothing of ``number`` is under way in this channel any more."""


class Owner(Protocol):
    """What a channel needs of the daemon."""

    controls: Controls
    exiting: bool
    counters: Counters
    history: History

    @property
    def oversight(self) -> Oversight:
        """What people ordered."""

    def next_serial(self) -> int:
        """The number of the next delivery in the log."""

    def status(self) -> bytes:
        """The status line."""

    def fresh_delivered(self, number: int) -> None:
        """The only recipient of ``number`` is done, and there is nothing in info/ to remove."""

    def fresh_to_be_written(self, new: New, written: Callable[[bool], None]) -> None:
        """``new`` needs its files after all: true when they are durable and todo/N has gone, false at the end."""

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
        self.jobs: dict[int, Job] = {}  # those with files of their own
        self.domains: DomainLines[int | tuple[Job, int]] = DomainLines({})
        self._limit = 0
        self._offered = 0
        self._foreign = False
        self._domains_next = False
        self._fresh_next = False
        self._loop = loop
        self._layout = layout
        self._owner = owner
        self._background = background
        self._log = log
        self._commands = commands
        self._reports = reports
        self._parser = spawn.ReportParser()
        self._out = b""
        self._gathered: list[bytes] = []  # commands of this turn
        self._probing = False
        self._pass: tuple[Job, RecipientFile] | None = None
        self._fresh: deque[tuple[Job, bytes]] = deque()
        self._failed: list[Delivery] = []
        self._syncing = False
        self._held = 0

    def start(self, limit: int) -> None:
        """Begin to serve with the spawner's ``limit``; ask for a wide one where that would help."""
        self._limit = self._offered = limit
        for fd in (self._commands, self._reports):
            os.set_blocking(fd, False)
        self._loop.add_reader(self._reports, self._read)
        self.controls_changed()

    def controls_changed(self) -> None:
        """Serve by the owner's controls, which are new."""
        controls = self._owner.controls
        if self.name == "remote":
            self.domains.replace(
                controls.domain_concurrency, [domain_of(delivery.recipient) for delivery in self.slots.used.values()]
            )
        if controls.concurrency[self.name] > spawn.LIMIT_MAX:
            self._probe()

    def _probe(self) -> None:
        """Ask the spawner, if it may be one of ours, for more slots than a byte can number; once."""
        if self._offered != spawn.LIMIT_MAX or self._parser.wide or self._probing or self._foreign or not self.alive:
            return
        self._probing = True
        self._parser.expect_probe_answer()
        self._send_gathered()
        self._send(spawn.format_probe())

    @property
    def limit(self) -> int:
        """The most deliveries at once."""
        return min(self._owner.controls.concurrency[self.name], self._limit)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way, so that the daemon may exit."""
        return not (self._failed or self._held or self._syncing or (self.alive and self.slots.used))

    def next_time(self) -> float:
        """When there is something to do for ``step``."""
        if not self._ready():
            return float("inf")
        if self._pass is not None or self._fresh or self.domains.has_room:
            return 0
        when = self.schedule.next_time()
        return float("inf") if when is None else when

    def step(self, now: float) -> None:
        """Start deliveries while slots are free, a bounded number at a time."""
        for _ in range(RECORDS_PER_TURN):
            if not self._ready():
                return
            if self._pass is not None:
                self._next_recipient()
            elif not self._next_message(int(now)):
                return

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

    # fresh messages

    def offer(self, new: New, recipient: bytes) -> bool:
        """Deliver ``new`` to its one recipient as soon as a slot is free; False where it should get its files first."""
        if not self.alive or len(self._fresh) >= FRESH_MAX or self.domains.limits:
            return False
        if self._owner.oversight.withholds_recipient(recipient):
            return False
        retry = next_retry(int(new.born), int(new.born), ROOT_STEP[self.name])
        dying = self._owner.controls.lifetime_s < 0
        job = Job(new.number, new.todo.sender, int(new.born), retry, dying, at_end=True, passing=False, fresh=new)
        self._fresh.append((job, recipient))
        return True

    def _next_fresh(self, now: int) -> bool:
        """Start the first fresh message, in turn with what is due."""
        if not self._fresh:
            return False
        due = self.schedule.next_time()
        self._fresh_next = not self._fresh_next
        if due is not None and due <= now and not self._fresh_next:
            return False
        job, recipient = self._fresh.popleft()
        oversight = self._owner.oversight
        full = bool(self.domains.limits) and self.domains.full(domain_of(recipient))
        if full or oversight.stops(job.number) or oversight.withholds_recipient(recipient):
            self._withhold_fresh(job)
        else:
            self._start(job, 0, recipient)
        return True

    def _withhold_fresh(self, job: Job) -> None:
        """Something stands in its way since it was offered: let it wait like any other message."""
        assert job.fresh is not None

        def written(done: bool) -> None:
            if done:
                self.schedule.add(job.number, int(time.time()))

        self._owner.fresh_to_be_written(job.fresh, written)

    def _fresh_reported(self, job: Job, delivery: Delivery, letter: bytes, text: bytes) -> None:
        if letter == spawn.SUCCESS:
            self._owner.fresh_delivered(job.number)
            return
        assert job.fresh is not None
        new, job.fresh = job.fresh, None
        self._held += 1

        def written(done: bool) -> None:
            self._held -= 1
            if done:
                self.jobs[job.number] = job
                self._act_on(delivery, letter, text)

        self._owner.fresh_to_be_written(new, written)

    # passes

    def _next_message(self, now: int) -> bool:
        """Begin with a fresh message, what waited for a domain or what is due, in turn; False when there is neither."""
        if self._next_fresh(now):
            return True
        self._domains_next = not self._domains_next
        if self._domains_next and self._next_of_domains(now):
            return True
        number = self.schedule.pop_due(now)
        if number is not None:
            self._begin(number, now)
            return True
        return self._next_of_domains(now)

    def _next_of_domains(self, now: int) -> bool:
        entry = self.domains.take() if self.domains.has_room else None
        if entry is None:
            return False
        if isinstance(entry, int):
            self._begin(entry, now)
        else:
            self._go_on(*entry)
        return True

    def _begin(self, number: int, now: int) -> None:
        """Open a pass over ``number``, unless somebody ordered otherwise."""
        if self._owner.oversight.withholds(self.name, number, now):
            return
        try:
            sender, birth = read_info(self._layout.info(number))
            recipients = RecipientFile(self._path(number))
        except OSError:
            if not self._gone(number):
                self._log(b"warning: trouble opening %b; will try again later" % self._relative(number))
                self.schedule.add(number, now + TROUBLE_S)
            return
        except MemoryError:
            self.schedule.add(number, now)
            raise
        retry = next_retry(birth, now, ROOT_STEP[self.name])
        job = Job(number, sender, birth, retry, now > birth + self._owner.controls.lifetime_s)
        self._pass = (job, recipients)
        self.jobs[number] = job

    def _gone(self, number: int) -> bool:
        """Whether ``number`` has left the queue, or this channel, while it waited."""
        try:
            if sweep.absent(self._layout.info(number)):
                return True
            if not sweep.absent(self._path(number)):
                return False
        except OSError:
            return False
        self._owner.channel_empty(self.name, number)
        return True

    def _go_on(self, job: Job, offset: int) -> None:
        """Start the delivery to a recipient that had been skipped."""
        if job.overdue:
            return
        job.held -= 1
        if self._owner.oversight.stops(job.number):
            self._settle(job)
            return
        try:
            recipient = recipient_at(self._path(job.number), offset)
        except OSError:
            self._log(b"warning: trouble reading %b; will try again later" % self._relative(job.number))
            self._settle(job)
            return
        if recipient is not None and self._owner.oversight.withholds_recipient(recipient):
            self._settle(job)
            return
        job.not_done -= 1
        if recipient is None:
            self._settle(job)  # done meanwhile
        else:
            self._start(job, offset, recipient)

    def _next_recipient(self) -> None:
        assert self._pass is not None
        job, recipients = self._pass
        if self._owner.oversight.stops(job.number):
            self._end_pass()
            return
        try:
            found = recipients.read_on()
        except UnknownMark:
            self._log(b"warning: unknown record type in %b!" % self._relative(job.number))
            self._end_pass()
            return
        except OSError:
            self._log(b"warning: trouble reading %b; will try again later" % self._relative(job.number))
            self._end_pass()
            return
        if isinstance(found, Pause):
            return
        if found is None:
            job.at_end = True
            self._end_pass()
            return
        offset, recipient = found
        if self._owner.oversight.withholds_recipient(recipient):
            job.not_done += 1
            return
        if self.domains.limits and self.domains.full(domain := domain_of(recipient)):
            job.not_done += 1
            if len(job.skipped) < SKIPPED_MAX:
                job.skipped.append((domain, offset))
            return
        self._start(job, offset, recipient)

    def _start(self, job: Job, offset: int, recipient: bytes) -> None:
        job.started = True
        job.open += 1
        job.not_done += 1
        self._owner.counters.started[self.name] += 1
        if self.domains.limits:
            self.domains.started(domain_of(recipient))
        delivery = Delivery(job, self._owner.next_serial(), offset, recipient)
        slot = self.slots.take(delivery)
        self._log(
            b"starting delivery %d: msg %d to %b %b\n%b"
            % (delivery.serial, job.number, self.name.encode(), safe(recipient), self._owner.status())
        )
        message = b"%d/%d" % (job.number % self._layout.split, job.number)
        sender = variable_sender(job.sender, recipient)
        if not self._gathered:
            self._loop.before_wait(self._send_gathered)
        self._gathered.append(spawn.format_command(slot, message, sender, recipient, wide=self._parser.wide))

    def _end_pass(self) -> None:
        assert self._pass is not None
        job, recipients = self._pass
        self._pass = None
        recipients.close()
        job.passing = False
        if job.skipped and job.at_end and not job.started:
            self.domains.hold(job.skipped[0][0], job.number)
            self.jobs.pop(job.number, None)
            return
        if job.skipped:
            self._hold_skipped(job)
        self._settle(job)

    def _hold_skipped(self, job: Job) -> None:
        """Let the skipped recipients wait for their domains, but no longer than the tried ones wait."""
        room = max(0, SKIPPED_MAX - len(self.domains))
        kept = job.skipped[:room]
        job.skipped.clear()
        job.held = len(kept)
        if kept:
            job.timer = self._loop.call_later(max(0, job.retry - time.time()), lambda: self._wait_no_longer(job))
        for domain, offset in kept:
            self.domains.hold(domain, (job, offset))

    def _wait_no_longer(self, job: Job) -> None:
        job.held = 0
        job.overdue = True
        self._settle(job)

    def _settle(self, job: Job) -> None:
        """Reschedule ``job``, or end it in this channel, once nothing holds it."""
        if job.passing or job.open or job.held:
            return
        if job.timer is not None:
            job.timer.cancel()
        self.jobs.pop(job.number, None)
        if not job.at_end or job.not_done:
            if job.started:
                self._owner.history.add(self.name, job.number, job.replies)
            self.schedule.add(job.number, job.retry)
            self._owner.oversight.settled(job.number)
            return
        self._owner.history.forget(self.name, job.number)
        try:
            files.unlink(self._path(job.number))
        except OSError:
            self._log(b"warning: unable to unlink %b; will try again later" % self._relative(job.number))
            self.schedule.add(job.number, int(time.time()) + TROUBLE_S)
            return
        self._owner.channel_empty(self.name, job.number)
        self._owner.oversight.settled(job.number)

    def at_work(self, number: int) -> bool:
        """Whether ``number`` is being delivered, or waits for a domain that has its limit of deliveries."""
        return number in self.jobs or number in self.domains.entries()

    # the spawner

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if self.alive and gathered:
            self._send(b"".join(gathered))

    def _send(self, data: bytes) -> None:
        if self._out:
            self._out += data  # behind what the pipe has not taken yet
            return
        try:
            done = os.write(self._commands, data)
        except BlockingIOError:
            done = 0
        except OSError:
            self._read_rest()
            self._die()
            return
        if done < len(data):
            self._loop.add_writer(self._commands, self._flush)
            self._out = data[done:]

    def _flush(self) -> None:
        data, self._out = self._out, b""
        self._loop.remove_writer(self._commands)
        self._send(data)

    def _read_rest(self) -> None:
        """What the spawner had still reported before it closed its commands is done, and gets its marks."""
        while self.alive:
            try:
                data = os.read(self._reports, 65536)
            except OSError:
                return
            if not data:
                return
            for report in self._parser.feed(data):
                self._report(report)

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
            if limit is None:
                self._foreign = True
            else:
                self._limit = limit
            return
        delivery = self.slots.release(report.slot)
        if delivery is None:
            self._log(b"warning: internal error: delivery report out of range")
            return
        if self.domains.limits:
            self.domains.ended(domain_of(delivery.recipient))
        letter, text = report.letter, report.text
        if letter == spawn.DEFERRAL and delivery.job.dying:
            letter, text = spawn.FAILURE, text + _GIVE_UP
        self._owner.counters.reported(self.name, letter, time.time() - delivery.job.birth)
        self._log(b"delivery %d: %b\n%b" % (delivery.serial, _outcome(letter, text), self._owner.status()))
        if delivery.job.fresh is not None:
            self._fresh_reported(delivery.job, delivery, letter, text)
        else:
            self._act_on(delivery, letter, text)

    def _act_on(self, delivery: Delivery, letter: bytes, text: bytes) -> None:
        """Do in the queue what a report asks for."""
        if letter == spawn.SUCCESS:
            self._done(delivery)
        elif letter == spawn.FAILURE:
            self._held += 1
            self._append_bounce(delivery, text)
        else:
            if len(delivery.job.replies) < REPLIES_MAX:
                delivery.job.replies[delivery.offset] = trimmed(text)
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
