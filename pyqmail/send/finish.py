"""The finished list: messages with no recipient left get their bounce, then end (qmail-send(8))."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator

from pyqmail.formats.bounce_text import (
    bounce_envelope,
    format_break,
    format_cut,
    format_failures_cut,
    format_head,
    return_address,
)
from pyqmail.intake.background import NOT_STARTED, BackgroundInjections
from pyqmail.send.background import Background
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.controls import Controls
from pyqmail.send.log import Line
from pyqmail.send.metrics import Counters
from pyqmail.spool import sweep
from pyqmail.spool.channel import read_info
from pyqmail.spool.layout import Layout
from pyqmail.spool.retry import TROUBLE_S, Schedule
from pyqmail.system import files

MESSAGES_PER_TURN = 32
PIECE = 65536
FAILURES_MAX = 4 << 20  # bytes of a bounce that tell of recipients; the rest of them is in the log
_START = b"warning: unable to start qmail-queue, will try later"
_INJECT = b"warning: trouble injecting bounce message, will try later"


class Finisher:
    """Ends finished messages; one with failures when its bounce is queued."""

    def __init__(
        self,
        layout: Layout,
        injections: BackgroundInjections,
        background: Background,
        cleaner: Cleaner,
        log: Line,
        *,
        counters: Counters,
        ended: Callable[[int], None],
    ) -> None:
        self.schedule = Schedule()
        self._counters = counters
        self._ended = ended
        self._layout = layout
        self._injections = injections
        self._background = background
        self._cleaner = cleaner
        self._log = log
        self._injecting: set[int] = set()
        self._leaving: list[tuple[int, tuple[str, ...]]] = []
        self._syncing = False
        self._waiting: deque[int] = deque()  # for their turn to be injected

    def step(self, now: float, controls: Controls) -> None:
        """End what is due, a bounded number at a time."""
        for _ in range(MESSAGES_PER_TURN):
            if self._waiting and not self._injections.full:
                number: int | None = self._waiting.popleft()
            else:
                number = self.schedule.pop_due(int(now))
            if number is None:
                return
            if number in self._injecting:
                continue
            try:
                self._finish(number, controls)
            except OSError:
                self._log(b"warning: unable to stat %b; will try again later" % self._info(number))
                self._later(number)

    def injecting(self, number: int) -> bool:
        """Whether the bounce of ``number`` is being queued."""
        return number in self._injecting

    def next_time(self) -> float:
        """When there is something to do for ``step``."""
        if self._waiting and not self._injections.full:
            return 0
        when = self.schedule.next_time()
        return float("inf") if when is None else when

    def _info(self, number: int) -> bytes:
        return self._layout.relative("info", number).encode()

    def _later(self, number: int) -> None:
        self.schedule.add(number, int(time.time()) + TROUBLE_S)

    def _finish(self, number: int, controls: Controls) -> None:
        layout = self._layout
        occupied = (layout.local(number), layout.remote(number), layout.todo(number))
        if not all(sweep.absent(path) for path in occupied) or sweep.absent(layout.info(number)):
            return  # not finished after all, or gone: whoever made it so has it in hand
        if sweep.absent(layout.bounce(number)):
            self._end(number)
            return
        if self._injections.full:
            self._waiting.append(number)
            return
        sender = return_address(read_info(layout.info(number))[0])
        envelope = bounce_envelope(sender, controls.double_bounce_to or b"")
        if envelope is None or (not sender and controls.double_bounce_to is None):
            self._log(b"%b bounce: discarding bounce/%d" % (b"double" if not sender else b"triple", number))
            self._counters.bounced("discarded")
            self._bounced(number)
            return
        self._inject(number, sender, envelope, controls)

    def _inject(self, number: int, sender: bytes, envelope: tuple[bytes, bytes], controls: Controls) -> None:
        self._injecting.add(number)
        bounce_sender, recipient = envelope

        def done(status: int, qp: int) -> None:
            self._injecting.discard(number)
            if status == 0:
                self._log(b"bounce msg %d qp %d" % (number, qp))
                self._counters.bounced("single" if sender else "double")
                self._bounced(number)
            else:
                self._log(_START if status == NOT_STARTED else _INJECT)
                self._later(number)

        self._injections.inject(
            _bounce(self._layout, number, sender, recipient, controls), bounce_sender, recipient, done
        )

    def _bounced(self, number: int) -> None:
        try:
            files.unlink(self._layout.bounce(number))
        except OSError:
            self._log(b"warning: unable to unlink bounce/%d" % number)
            self._later(number)
            return
        self._end(number)

    def _end(self, number: int) -> None:
        self._log(b"end msg %d" % number)
        try:
            birth = int(os.stat(self._layout.info(number)).st_mtime)
            files.unlink(self._layout.info(number))
        except OSError:
            self._log(b"warning: unable to unlink %b; will try again later" % self._info(number))
            self._later(number)
            return
        self._counters.left(birth)
        self._ended(number)
        layout = self._layout
        parts = (layout.info, layout.local, layout.remote, layout.todo, layout.bounce)
        self.clean(number, *(os.path.dirname(part(number)) for part in parts))

    def removed(self, number: int, birth: int) -> None:
        """Somebody has had all files of ``number`` removed but its message file."""
        self._log(b"end msg %d" % number)
        self._counters.left(birth)
        layout = self._layout
        parts = (layout.info, layout.local, layout.remote, layout.bounce)
        self.clean(number, *(os.path.dirname(part(number)) for part in parts))

    def end_fresh(self, number: int) -> None:
        """A message that never left todo/ is delivered, and its todo/N has gone."""
        self.clean(number, os.path.dirname(self._layout.todo(number)))

    def clean(self, number: int, *folders: str) -> None:
        """Have qmail-clean remove the message itself, once the names removed from ``folders`` are durably gone.

        With mess/N its inode is free for another message; a name that a power cut brought back would send that one to
        the old recipients, or with bounce/N tell its sender of their failures.
        """
        if not folders:
            self._remove(number)
            return
        self._leaving.append((number, folders))
        self._sync_names()

    @property
    def idle(self) -> bool:
        """Whether no message is on its way out."""
        return not self._leaving and not self._syncing

    def _sync_names(self) -> None:
        if self._syncing or not self._leaving:
            return
        batch, self._leaving = self._leaving, []
        self._syncing = True

        def sync() -> Callable[[], None]:
            durable = _synced({folder for _, folders in batch for folder in folders})
            return lambda: self._names_synced(batch, durable)

        self._background.submit(sync)

    def _names_synced(self, batch: list[tuple[int, tuple[str, ...]]], durable: bool) -> None:
        self._syncing = False
        self._sync_names()
        if not durable:
            self._log(b"warning: unable to sync the queue's directories; messages stay for the cleanup")
            return
        for number, _ in batch:
            self._remove(number)

    def _remove(self, number: int) -> None:
        def answered(done: bool) -> None:
            if not done:
                self._log(b"warning: qmail-clean unable to clean up foop/%d" % number)

        self._cleaner.ask(b"foop", number, answered)


def _synced(folders: set[str]) -> bool:
    try:
        for folder in folders:
            files.sync_directory(folder)
    except OSError:
        return False
    return True


def _bounce(layout: Layout, number: int, sender: bytes, recipient: bytes, controls: Controls) -> Iterator[bytes]:
    """The bytes of the bounce of ``number``, in pieces. Raises OSError."""
    double = not sender
    bounce_from = controls.bounce_from + b"@" + controls.bounce_host
    yield format_head(int(time.time()), bounce_from, controls.bounce_host, recipient, number=number, double=double)
    yield from _at_most(layout.bounce(number), FAILURES_MAX, format_failures_cut)
    yield format_break(sender, double=double)
    yield from _at_most(layout.mess(number), controls.bounce_max, format_cut)


def _at_most(path: str, most: int | None, format_note: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """What ``path`` holds, cut after its last whole line within ``most`` bytes, and then saying so."""
    size = os.stat(path).st_size
    if most is None or size <= most:
        yield from _pieces(path)
        return
    shown = 0
    for piece in _pieces(path):
        kept = piece[: most - shown]
        if len(kept) < len(piece) or shown + len(kept) == most:
            kept = kept[: kept.rfind(b"\n") + 1] or kept  # a line longer than a piece is cut where it must be
        shown += len(kept)
        yield kept
        if len(kept) < len(piece) or shown == most:
            break
    yield format_note(shown, size)


def _pieces(path: str) -> Iterator[bytes]:
    fd = files.open_read(path)
    try:
        while data := os.read(fd, PIECE):
            yield data
    finally:
        os.close(fd)
