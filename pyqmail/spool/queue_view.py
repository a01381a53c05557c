"""What the files of the queue say of a message, for people to look at (qmail-q(8)). Nothing here changes a file."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pyqmail.formats.todo import RecipientParser, UnknownRecord, parse_todo
from pyqmail.spool.history import History
from pyqmail.spool.layout import Layout
from pyqmail.spool.sweep import numbers_in
from pyqmail.system import files

CHANNELS = ("local", "remote")


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient; ``reply`` is what the last attempt was answered, if it is known."""

    address: bytes
    done: bool = False
    reply: bytes = b""


@dataclass(slots=True)
class ChannelView:
    """One channel of a message; ``due`` is what its file says of the next attempt."""

    name: str
    due: int
    attempts: int = 0
    tried: int | None = None
    recipients: list[Recipient] = field(default_factory=list)

    @property
    def left(self) -> list[Recipient]:
        """The recipients that are not done."""
        return [recipient for recipient in self.recipients if not recipient.done]


@dataclass(frozen=True, slots=True)
class MessageView:
    """One message. A new one, not yet preprocessed, has its recipients in a channel called ``new``."""

    number: int
    new: bool
    sender: bytes
    size: int
    queued: int
    bouncing: bool
    channels: tuple[ChannelView, ...]


def numbers(layout: Layout) -> list[int]:
    """The numbers of all accepted messages, new ones included, in order. Raises OSError."""
    found: set[int] = set()
    parts = [f"info/{remainder}" for remainder in range(layout.split)]
    parts += [f"todo/{remainder}" for remainder in range(layout.split)] if layout.todo_split else ["todo"]
    for part in parts:
        try:
            found.update(numbers_in(f"{layout.queue}/{part}"))
        except FileNotFoundError:
            os.stat(layout.queue + "/info")  # one missing part holds nothing; no queue at all is an error
    return sorted(found)


def read_message(layout: Layout, history: History, number: int) -> MessageView | None:
    """Message ``number`` as it is now; None when there is none, or it went while we looked. Raises OSError."""
    for _ in range(3):  # it may go from new to preprocessed between two of our looks
        try:
            return _read_new(layout, number)
        except FileNotFoundError:
            pass
        try:
            return _read_known(layout, history, number)
        except FileNotFoundError:
            continue
    return None


def _read_new(layout: Layout, number: int) -> MessageView:
    data, queued = files.read_dated(layout.todo(number))
    size = os.stat(layout.mess(number)).st_size
    try:
        todo = parse_todo(data)
    except UnknownRecord:
        return MessageView(number, True, b"", size, queued, False, ())
    recipients = [Recipient(address) for address in todo.recipients]
    channel = ChannelView("new", queued, recipients=recipients)
    return MessageView(number, True, todo.sender, size, queued, False, (channel,))


def _read_known(layout: Layout, history: History, number: int) -> MessageView:
    data, birth = files.read_dated(layout.info(number))
    size = os.stat(layout.mess(number)).st_size
    channels = []
    for name in CHANNELS:
        try:
            channels.append(_read_channel(layout, history, name, number, birth))
        except FileNotFoundError:
            continue
    bouncing = os.path.exists(layout.bounce(number))
    return MessageView(number, False, data.partition(b"\0")[0][1:], size, birth, bouncing, tuple(channels))


def _read_channel(layout: Layout, history: History, name: str, number: int, birth: int) -> ChannelView:
    data, due = files.read_dated(layout.part(name, number))
    note = history.read(name, number, birth)
    replies = note.replies if note is not None else {}
    recipients = [
        Recipient(address, mark == b"D", b"" if mark == b"D" else replies.get(offset, b""))
        for offset, mark, address in RecipientParser().feed(data)
    ]
    if note is None:
        return ChannelView(name, due, recipients=recipients)
    return ChannelView(name, due, note.attempts, note.tried, recipients)


def has_domain(view: MessageView, domain: bytes) -> bool:
    """Whether a recipient of ``domain``, in lower case, is not done."""
    return any(
        recipient.address.rpartition(b"@")[2].lower() == domain
        for channel in view.channels
        for recipient in channel.recipients
        if not recipient.done
    )


def with_domain(layout: Layout, history: History, numbers: Iterable[int], domain: bytes) -> Iterator[int]:
    """Those of ``numbers`` that still have a recipient in ``domain``. Raises OSError."""
    for number in numbers:
        view = read_message(layout, history, number)
        if view is not None and has_domain(view, domain):
            yield number
