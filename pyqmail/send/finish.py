"""The finished list: messages with no recipient left get their bounce, then end (qmail-send(8))."""

import os
from collections import deque
from collections.abc import Callable, Mapping

from pyqmail.formats.bounce_text import bounce_envelope, return_address
from pyqmail.intake.background import NOT_STARTED, BackgroundInjections
from pyqmail.log.events import BounceDiscarded, BounceQueued, MessageEnded, Warn
from pyqmail.send.bounce import bounce_pieces
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.leaving import Leaving
from pyqmail.send.means import Means
from pyqmail.send.retry import TROUBLE_S, Schedule
from pyqmail.spool import sweep
from pyqmail.spool.channel import read_info
from pyqmail.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.formats.facts import Facts

MESSAGES_PER_TURN = 32
_START = Warn(b"unable to start qmail-queue, will try later")
_INJECT = Warn(b"trouble injecting bounce message, will try later")


class Finisher:
    """Ends finished messages; one with failures when its bounce is queued."""

    def __init__(
        self, means: Means, injections: BackgroundInjections, cleaner: Cleaner, ended: Callable[[int], None]
    ) -> None:
        self.schedule = Schedule()
        self.leaving = Leaving(means, cleaner)
        self._means = means
        self._injections = injections
        self._ended = ended
        self._injecting: set[int] = set()
        self._waiting: deque[int] = deque()  # for their turn to be injected

    def step(self, now: float) -> None:
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
                self._finish(number)
            except OSError:
                self._means.log(Warn(b"unable to stat %b; will try again later" % self._info(number)))
                self._later(number)

    def injecting(self, number: int) -> bool:
        """Whether the bounce of ``number`` is being queued."""
        return number in self._injecting

    def next_time(self) -> float:
        """When there is something to do for ``step``."""
        if self._waiting and not self._injections.full:
            return 0
        return self.schedule.next_time()

    def _info(self, number: int) -> bytes:
        return self._means.layout.relative("info", number).encode()

    def _later(self, number: int) -> None:
        self.schedule.add(number, int(self._means.clock()) + TROUBLE_S)

    def _finish(self, number: int) -> None:
        layout = self._means.layout
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
        envelope = bounce_envelope(sender, self._means.controls.double_bounce_to or b"")
        if envelope is None or (not sender and self._means.controls.double_bounce_to is None):
            self._means.log(BounceDiscarded(number, "triple" if sender else "double"))
            self._means.counters.bounced("discarded")
            self._bounced(number)
            return
        self._inject(number, sender, envelope)

    def _inject(self, number: int, sender: bytes, envelope: tuple[bytes, bytes]) -> None:
        bounce_sender, recipient = envelope
        known: tuple[Facts, Mapping[bytes, bytes]] | tuple[()] = ()
        own = b""
        if number in self._means.facts:
            from pyqmail.send.notices import facts_for_bounce, facts_of_notice  # few messages have facts

            try:
                known = facts_for_bounce(self._means, number)
            except OSError:  # a bounce without them could give away what REQUIRETLS protects
                self._means.log(Warn(b"unable to read facts of msg %d; will try again later" % number))
                self._later(number)
                return
            own = facts_of_notice(known[0], bounce_sender)
        self._injecting.add(number)

        def done(status: int, qp: int) -> None:
            self._injecting.discard(number)
            if status == 0:
                self._means.log(BounceQueued(number, qp))
                self._means.counters.bounced("single" if sender else "double")
                self._bounced(number)
            else:
                self._means.log(_START if status == NOT_STARTED else _INJECT)
                self._later(number)

        self._injections.inject(
            bounce_pieces(self._means.layout, number, sender, recipient, self._means.controls, *known),
            bounce_sender,
            recipient,
            done,
            facts=own,
        )

    def _bounced(self, number: int) -> None:
        try:
            files.unlink(self._means.layout.bounce(number))
        except OSError:
            self._means.log(Warn(b"unable to unlink bounce/%d" % number))
            self._later(number)
            return
        self._end(number)

    def _end(self, number: int) -> None:
        self._means.log(MessageEnded(number))
        copy = self._means.shadow.identity(number) if self._means.shadow is not None else b""
        try:
            birth = int(os.stat(self._means.layout.info(number)).st_mtime)
            files.unlink(self._means.layout.info(number))
        except OSError:
            self._means.log(Warn(b"unable to unlink %b; will try again later" % self._info(number)))
            self._later(number)
            return
        self._means.counters.left(birth)
        if self._means.shadow is not None:
            self._means.shadow.ended(copy)
        self._ended(number)
        layout = self._means.layout
        parts = (layout.info, layout.local, layout.remote, layout.todo, layout.bounce)
        self.leaving.clean(number, *(os.path.dirname(part(number)) for part in parts))

    def removed(self, number: int, birth: int) -> None:
        """Somebody has had all files of ``number`` removed but its message file."""
        self._means.log(MessageEnded(number))
        self._means.counters.left(birth)
        layout = self._means.layout
        parts = (layout.info, layout.local, layout.remote, layout.bounce)
        self.leaving.clean(number, *(os.path.dirname(part(number)) for part in parts))

    def end_fresh(self, number: int) -> None:
        """A message that never left todo/ is delivered, and its todo/N has gone."""
        self.leaving.clean(number, os.path.dirname(self._means.layout.todo(number)))
