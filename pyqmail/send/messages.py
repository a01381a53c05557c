"""The life of a message across the parts: from todo/ or the queue as found, through the channels, to its end."""

from collections.abc import Callable, Mapping

from pyqmail.intake.background import BackgroundInjections
from pyqmail.log.events import MessageEnded
from pyqmail.send.channel import Channel
from pyqmail.send.cleaner import Cleaner
from pyqmail.send.finish import Finisher
from pyqmail.send.holds import birth_of
from pyqmail.send.loading import Loading
from pyqmail.send.means import Means
from pyqmail.send.queue_orders import QueueOrders
from pyqmail.send.retry import Schedule
from pyqmail.send.todo_pass import TodoPass
from pyqmail.spool import sweep
from pyqmail.spool.preprocess import New

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.send.notices import Notices


class Messages:
    """Hands each message from one part to the next. ``channels`` is filled by who makes them."""

    def __init__(self, means: Means, cleaner: Cleaner, injections: BackgroundInjections) -> None:
        self.channels: dict[str, Channel] = {}
        self.orders = QueueOrders(means, self)
        self.finisher = Finisher(means, injections, cleaner, self.orders.forget)
        self._notices: Notices | None = None
        self._injections = injections
        self.loading = Loading(means, self)
        self.todo = TodoPass(means, cleaner, self)
        self._means = means

    @property
    def notices(self) -> "Notices":
        """Who tells senders; imported for the first message that has facts."""
        if self._notices is None:
            from pyqmail.send.notices import Notices

            self._notices = Notices(self._means, self._injections)
        return self._notices

    def _now(self) -> int:
        return int(self._means.clock())

    # new ones, and those found at the start

    def offer(self, new: New) -> bool:
        """Deliver ``new`` straight from todo/ if it has one recipient and nothing older is still being read in."""
        if self.loading.under_way or len(new.channels) != 1:
            return False
        ((name, recipients),) = new.channels.items()
        if len(recipients) != 1 or not self.channels[name].offer(new, recipients[0]):
            return False
        self._means.counters.accepted += 1
        return True

    def comes_held(self, number: int, birth: int) -> None:
        """``number`` is held on the node that it comes from."""
        self.orders.comes_held(number, birth)

    def accept(self, number: int, channels: tuple[str, ...]) -> None:
        """``number`` has its files, and its todo/N has gone."""
        now = self._now()
        self.loading.accepted(number)
        self._means.counters.accepted += 1
        self._means.counters.ages.add(birth_of(self._means.layout, number) or now)
        for name in channels:
            self.channels[name].schedule.add_new(number, now)
        if not channels:
            self.finisher.schedule.add(number, now)
        self.orders.arrived(number)

    def holds(self, number: int) -> bool:
        """Whether ``number`` is new, and on its way through todo/."""
        return self.todo.holds(number)

    def found(self, number: int, birth: int, due: Mapping[str, int]) -> None:
        """``number`` was in the queue at the start, and waits in the channels of ``due``."""
        self._means.counters.ages.add(birth)
        if self.orders.ends(number):
            return
        for name, when in due.items():
            self.channels[name].schedule.add(number, when)
        if not due:
            self.finisher.schedule.add(number, self._now())

    # what the channels tell

    def fresh_delivered(self, number: int) -> None:
        """The only recipient of ``number`` is done, and there is nothing in info/ to remove."""
        self._means.log(MessageEnded(number))
        self._means.counters.ended += 1
        self.orders.missed(number)
        self.todo.delivered(number)

    def end_fresh(self, number: int) -> None:
        """The todo/N of such a message has gone."""
        self.finisher.end_fresh(number)

    def fresh_to_be_written(self, new: New, written: Callable[[bool], None]) -> None:
        """``new`` needs its files after all."""

        def counted(done: bool) -> None:
            if done:
                self._means.counters.ages.add(birth_of(self._means.layout, new.number) or int(new.born))
            written(done)
            self.orders.arrived(new.number)

        self.todo.write(new, counted)

    def channel_empty(self, name: str, number: int) -> None:
        """A channel of ``number`` is done: it is finished if the other one is."""
        if self.orders.ends(number):
            return
        other = self._means.layout.part("remote" if name == "local" else "local", number)
        try:
            if not sweep.absent(other):
                return
        except OSError:
            pass  # the finished list looks again
        self.finisher.schedule.add(number, self._now())

    # what orders need

    def schedules(self) -> list[Schedule]:
        """Wherever a message may wait."""
        return [*(channel.schedule for channel in self.channels.values()), self.finisher.schedule]

    def delivering(self, number: int) -> bool:
        """Whether ``number`` is being delivered, or waits for a full domain or user."""
        return any(channel.at_work(number) for channel in self.channels.values())

    def due(self, channel: str, number: int) -> None:
        """``number`` waits in that channel, and is due."""
        self.channels[channel].schedule.add(number, self._now())

    def all_due(self) -> None:
        """Try everything now."""
        self.make_channels_due()
        self.finisher.schedule.all_due(self._now())

    def make_channels_due(self) -> None:
        """Try all that waits for a delivery now (SIGALRM)."""
        self.loading.make_due()
        for channel in self.channels.values():
            channel.all_due(self._now())

    def in_todo(self, number: int) -> bool:
        """Whether ``number`` still has its todo file."""
        if self.todo.holds(number):
            return True
        try:
            return not sweep.absent(self._means.layout.todo(number))
        except OSError:
            return True

    def injecting(self, number: int) -> bool:
        """Whether the bounce of ``number`` is being queued."""
        return self.finisher.injecting(number)

    def removed(self, number: int, birth: int) -> None:
        """``number`` has left the queue by order, but for its message file."""
        self.finisher.removed(number, birth)

    def all_failed(self, number: int) -> None:
        """``number`` has no recipients left, by order."""
        self.finisher.schedule.add(number, self._now())
