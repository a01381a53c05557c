"""Reading nested netstrings as they arrive, in pieces of any size: what QMTP and QMQP receivers have in common."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from enum import Enum

from pyqmail.formats.netstring import NetstringError, scan_length

ADDRESS_MAX = 999  # longer ones are skipped, and refused


class Kind(Enum):
    """What has arrived."""

    HEADER = "what is to be known of a message that follows"
    BEGIN = "a message is on its way"
    TEXT = "some of its text"
    SENDER = "its sender"
    RECIPIENT = "one of its recipients"
    END = "nothing more of it"


Event = tuple[Kind, bytes | None]  # None for an address that is too long, and where there is nothing to say
Machine = Generator[None, None, None]


class Reader(ABC):
    """A protocol as straight code: ``conversation`` yields whenever it needs more bytes.

    ``feed`` takes what has come and returns what is in it; once ``fault`` is set nothing more is read.
    """

    def __init__(self) -> None:
        self.fault: NetstringError | None = None
        self.ended = False
        self._data = b""
        self._at = 0
        self._left: int | None = None  # bytes that may still be read, None for any number
        self._events: list[Event] = []
        self._machine = self.conversation()

    @abstractmethod
    def conversation(self) -> Machine:
        """The protocol."""

    def feed(self, data: bytes) -> list[Event]:
        """The events in ``data``; those before a fault are not lost."""
        self._data = self._data[self._at :] + data
        self._at = 0
        try:
            if self.fault is None and not self.ended:
                next(self._machine)
        except StopIteration:
            self.ended = True
        except NetstringError as error:
            self.fault = error
        events, self._events = self._events, []
        return events

    def emit(self, kind: Kind, data: bytes | None = None) -> None:
        """Add an event."""
        self._events.append((kind, data))

    def some(self, limit: int) -> Generator[None, None, bytes]:
        """At least one and at most ``limit`` bytes. Raises NetstringError where nothing more may come."""
        if self._left == 0:
            raise NetstringError
        while self._at == len(self._data):
            yield
        if self._left is not None:
            limit = min(limit, self._left)
        piece = self._data[self._at : self._at + limit]
        self._at += len(piece)
        if self._left is not None:
            self._left -= len(piece)
        return piece

    def length(self) -> Generator[None, None, int]:
        """A length field and its colon. Raises NetstringError."""
        length, used = 0, None
        while used is None:
            length, used = scan_length(length, (yield from self.some(1)))
        return length

    def comma(self) -> Machine:
        """The end of a netstring. Raises NetstringError."""
        if (yield from self.some(1)) != b",":
            raise NetstringError

    def address(self, length: int) -> Generator[None, None, bytes | None]:
        """An address of ``length`` bytes, None for one that is too long; the comma is not read."""
        pieces, left = [], length
        while left:
            piece = yield from self.some(min(left, 65536))
            left -= len(piece)
            if length <= ADDRESS_MAX:
                pieces.append(piece)
        return None if length > ADDRESS_MAX else b"".join(pieces)
