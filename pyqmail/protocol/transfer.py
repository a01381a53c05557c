"""Moving queued messages to another node: QMTP, each message after one netstring more (qmail-xferd(8)).

    netstring(netstring("xfer 1") netstring(FACTS))
    netstring(message) netstring(sender) netstring(netstring(recipient)...)         as QMTP has it

FACTS are those of formats/facts, with the transfer in them. All recipients have the same answer: K when the message is
in the queue, or has been; Z or D when none of it is.
"""

from collections.abc import Generator, Sequence

from pyqmail.formats.facts import FACTS_MAX, FactsError, parse_facts
from pyqmail.formats.netstring import (
    NetstringError,
    NetstringTooLong,
    format_netstring,
    format_netstrings,
    parse_netstrings,
)
from pyqmail.protocol.netstring_reader import Kind, Machine, Reader
from pyqmail.protocol.qmtp import LF, QmtpReader

GREETING = b"xfer 1"
HEADER_MAX = FACTS_MAX + 64  # bytes
ANSWER_MAX = 1000  # bytes of the answer for one recipient


class TransferReader(QmtpReader):
    """The receiving side. Each message begins with a HEADER, whose data are the facts."""

    def conversation(self) -> Machine:
        """Read for ever."""
        while True:
            length = yield from self.length()
            if length > HEADER_MAX:
                raise NetstringTooLong
            header = yield from self._exactly(length)
            yield from self.comma()
            self.emit(Kind.HEADER, facts_of(header))
            yield from self.message()

    def _exactly(self, left: int) -> Generator[None, None, bytes]:
        data = b""
        while len(data) < left:
            data += yield from self.some(left - len(data))
        return data


class AnswerReader(Reader):
    """The sending side: answers, each a TEXT that begins with K, Z or D."""

    def conversation(self) -> Machine:
        """Read for ever."""
        while True:
            length = yield from self.length()
            if length > ANSWER_MAX:
                raise NetstringTooLong
            text = b""
            while len(text) < length:
                text += yield from self.some(length - len(text))
            yield from self.comma()
            self.emit(Kind.TEXT, text)


def facts_of(header: bytes) -> bytes:
    """The facts in a message's ``header``. Raises NetstringError for what is none, or names no transfer."""
    words = parse_netstrings(header)
    try:
        if len(words) == 2 and words[0] == GREETING and parse_facts(words[1]).transfer is not None:
            return words[1]
    except FactsError:
        pass
    raise NetstringError


def format_head(facts: bytes, size: int) -> bytes:
    """What goes before the ``size`` bytes of a message."""
    return format_netstring(format_netstrings([GREETING, facts])) + b"%d:%b" % (size + 1, LF)


def format_tail(sender: bytes, recipients: Sequence[bytes]) -> bytes:
    """What goes after them."""
    return b"," + format_netstring(sender) + format_netstring(format_netstrings(recipients))
