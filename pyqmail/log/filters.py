"""Which messages, deliveries and sessions of a log are wanted (qmail-log(8))."""

from collections.abc import Sequence
from dataclasses import dataclass

from pyqmail.log.joiner import Delivery, Item, Message, Session, Trouble


@dataclass(frozen=True, slots=True)
class Filters:
    """What is wanted; an empty string or None is everything."""

    sender: str
    recipient: str
    address: str
    host: str
    result: str
    number: int | None
    since: float | None

    def wants(self, when: float | None, item: Item) -> bool:
        """Whether ``item`` is to be shown."""
        if self.since is not None and (when is None or when < self.since):
            return False
        match item:
            case Trouble():
                return not any((self.sender, self.recipient, self.address, self.host, self.result, self.number))
            case Session():
                return self._wants_session(item)
            case Delivery():
                return self._wants_message(item.message, [item])
            case Message():
                return self._wants_message(item, item.deliveries)

    def _wants_session(self, item: Session) -> bool:
        recipients = item.rest.partition(" ")[0]
        return (
            (self.number is None or item.rest.endswith(f" qp={self.number}"))
            and has(item.sender, self.sender)
            and has(recipients, self.recipient)
            and (has(item.sender, self.address) or has(recipients, self.address))
            and (has(item.ip, self.host) or has(item.helo, self.host) or has(recipients, self.host))
            and self.result in ("", item.result)
        )

    def _wants_message(self, message: Message, deliveries: Sequence[Delivery]) -> bool:
        if self.number is not None and self.number not in (message.number, message.qp):
            return False
        if not has(message.sender, self.sender):
            return False
        if not (self.recipient or self.address or self.host or self.result):
            return True
        return any(self._wants_delivery(message, delivery) for delivery in deliveries)

    def _wants_delivery(self, message: Message, delivery: Delivery) -> bool:
        return (
            has(delivery.recipient, self.recipient)
            and (has(message.sender, self.address) or has(delivery.recipient, self.address))
            and (has(delivery.recipient.rpartition("@")[2], self.host) or has(delivery.text, self.host))
            and self.result in ("", delivery.result)
        )


def has(text: str, part: str) -> bool:
    """Whether ``part`` is in ``text``, whatever the case."""
    return part.lower() in text.lower()
