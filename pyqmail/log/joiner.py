"""The lines of a log joined to messages, deliveries and sessions: a log has a line for each step (qmail-log(5))."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from pyqmail.log import events

WAITING_MAX = 500_000  # messages and deliveries that are remembered until they end; of more the oldest are forgotten
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(slots=True)
class Delivery:
    """One attempt."""

    message: "Message"
    channel: str
    recipient: str
    started: float | None
    ended: float | None = None
    result: str = ""
    text: str = ""


@dataclass(slots=True)
class Message:
    """What is known of a message so far."""

    number: int
    began: float | None = None
    sender: str = ""
    size: int = 0
    qp: int = 0
    uid: int = -1
    bounced: bool = False
    deliveries: list[Delivery] = field(default_factory=list)


def latest(message: Message) -> dict[str, Delivery]:
    """The last attempt for each recipient."""
    return {delivery.recipient: delivery for delivery in message.deliveries}


@dataclass(frozen=True, slots=True)
class Session:
    """A door has accepted or refused mail; ``rest`` is the recipients and what follows them."""

    result: str
    ip: str
    helo: str
    sender: str
    rest: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """An alert or a warning."""

    text: str


Item = Message | Delivery | Session | Trouble


def shown(text: bytes) -> str:
    """``text`` of a line as it is looked for and shown."""
    return text.decode("utf-8", "surrogateescape")


def forget_oldest(remembered: dict[Key, Value]) -> None:
    """A quarter of what is ``remembered``, in its order, if that is too much."""
    if len(remembered) > WAITING_MAX:
        for key in list(islice(remembered, WAITING_MAX // 4)):
            del remembered[key]


class Joiner:
    """Turns the lines of a log into messages and deliveries as they end."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self._running: dict[int, Delivery] = {}

    def take(self, when: float | None, event: events.Known | None) -> Iterator[Item]:
        """What ``event`` of ``when`` completes."""
        match event:
            case events.NewMessage(number):
                forget_oldest(self.messages)
                self.messages[number] = Message(number, when)
            case events.MessageInfo(number, size, sender, qp, uid):
                message = self._message(number)
                message.sender, message.size, message.qp, message.uid = shown(sender), size, qp, uid
            case events.DeliveryStarted(delivery, number, channel, recipient):
                forget_oldest(self._running)
                self._running[delivery] = Delivery(self._message(number), channel, shown(recipient), when)
            case events.DeliveryEnded(delivery, result, text) if result != "mangled":
                yield from self._end(when, delivery, result, shown(text).strip("/"))
            case events.BounceQueued(number) | events.BounceDiscarded(number):
                self._message(number).bounced = True
            case events.MessageEnded(number):
                yield self.messages.pop(number, Message(number))
            case events.Decision():
                rest = shown(event.to + event.tail)
                yield Session(event.result, shown(event.ip), shown(event.helo), shown(event.sender), rest)
            case events.Warn() | events.Alert():
                yield Trouble(shown(event.format()))

    def _message(self, number: int) -> Message:
        return self.messages.setdefault(number, Message(number))

    def _end(self, when: float | None, number: int, result: str, text: str) -> Iterator[Item]:
        delivery = self._running.pop(number, None)
        if delivery is None:
            return  # it began before the log did
        delivery.ended, delivery.result, delivery.text = when, result, text
        delivery.message.deliveries.append(delivery)
        yield delivery
