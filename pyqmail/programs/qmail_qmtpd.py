"""qmail-qmtpd: messages by QMTP on descriptors 0 and 1 (qmail-qmtpd(8)).

0 when the client ends, 100 for a broken protocol, 111 for local trouble and after an hour. Nothing of a message is kept
here: it goes to the queue as it arrives.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence

from pyqmail.control import Control, ControlUnreadable, home_of
from pyqmail.formats.netstring import NetstringTooLong, format_netstring
from pyqmail.formats.received import format_network_received
from pyqmail.intake.client import Injection
from pyqmail.policy.relaying import Relaying, size_limit
from pyqmail.protocol.netstring_reader import ADDRESS_MAX, Event, Kind
from pyqmail.protocol.qmtp import QmtpReader
from pyqmail.system.alarm import TimeUp, time_limit
from pyqmail.system.files import write_all

BUFFER = 65536
SESSION_S = 3600  # for the whole session
RECIPIENTS_MAX = 8388608  # bytes that the recipients of one message may take, 64 for each besides its own
DONE, BAD_PROTOCOL, TROUBLE = 0, 100, 111

BAD_SENDER = b"Dunacceptable sender (#5.1.7)"
TOO_BIG = b"Dsorry, that message size exceeds my databytes limit (#5.3.4)"
NOT_ALLOWED = format_netstring(b"Dsorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)")
BAD_RECIPIENT = format_netstring(b"Dsorry, I can't handle that recipient (#5.1.3)")
ACCEPTED = b""  # stands for the answer that is the same for all


class ClientGone(Exception):
    """The client has ended, or cannot be written to."""


class Trouble(Exception):
    """No memory, no queue."""


class Letter:
    """One message as it comes in."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes], limit: int) -> None:
        try:
            self._injection = Injection.open(home, environ, warm=True)
        except OSError:
            raise Trouble from None
        self._limit = limit
        self._head = format_network_received(b"QMTP", environ, None, time.time())
        self._sender: bytes | None = None
        self._recipients: list[bytes] = []
        self._recipient_bytes = 0
        self._size = 0
        self.answers: list[bytes] = []  # by recipient, ready to send, or ACCEPTED

    def text(self, piece: bytes) -> None:
        """Some of the message."""
        self._size += len(piece)
        if self._overflow():
            self._injection.fail()
        else:
            self._injection.write(self._head + piece)
            self._head = b""

    def sender(self, address: bytes | None) -> None:
        """The sender; one that is too long or holds a NUL is not acceptable."""
        self._sender = None if address is None or b"\0" in address else address

    def recipient(self, address: bytes) -> None:
        """A recipient that is accepted. Raises Trouble when there are too many to remember."""
        self._recipients.append(address)
        self._recipient_bytes += len(address) + 64
        if self._recipient_bytes > RECIPIENTS_MAX:
            raise Trouble

    def close(self) -> list[bytes]:
        """Queue it; the answers to all recipients."""
        if self._head:
            self._injection.write(self._head)
        if self._sender is None or not self._recipients:
            self._injection.fail()
        answer = self._injection.close(self._sender or b"", self._recipients)
        letter, text = answer.letter_text()
        result = b"Kok %d qp %d" % (time.time(), answer.number) if letter == b"K" else letter + text
        if self._sender is None:
            result = BAD_SENDER
        if self._overflow():
            result = TOO_BIG
        common = format_netstring(result)
        return [answer or common for answer in self.answers]

    def abort(self) -> None:
        """Give it up; harmless after ``close``."""
        self._injection.abort()

    def _overflow(self) -> bool:
        return 0 < self._limit < self._size


class Session:
    """One client."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes], relaying: Relaying, limit: int) -> None:
        self._home = home
        self._environ = environ
        self._relaying = relaying
        self._limit = limit
        self._suffix = environ.get(b"RELAYCLIENT")
        self._letter: Letter | None = None
        self._out: list[bytes] = []

    def run(self) -> int:
        """Serve; the exit code. Raises ClientGone, Trouble, TimeUp and ControlUnreadable."""
        reader = QmtpReader()
        try:
            while reader.fault is None:
                for event in reader.feed(self._read()):
                    self._take(event)
            self._flush()
            return TROUBLE if isinstance(reader.fault, NetstringTooLong) else BAD_PROTOCOL
        finally:
            if self._letter is not None:
                self._letter.abort()

    def _take(self, event: Event) -> None:
        kind, data = event
        if kind is Kind.BEGIN:
            self._letter = Letter(self._home, self._environ, self._limit)
            return
        letter = self._letter
        assert letter is not None
        if kind is Kind.TEXT:
            letter.text(data or b"")
        elif kind is Kind.SENDER:
            letter.sender(data)
        elif kind is Kind.RECIPIENT:
            letter.answers.append(self._decide(letter, data))
        else:
            self._out += letter.close()
            letter.abort()
            self._letter = None

    def _decide(self, letter: Letter, address: bytes | None) -> bytes:
        if address is None or len(address) + len(self._suffix or b"") > ADDRESS_MAX:
            return BAD_RECIPIENT
        if self._suffix is None and not self._relaying.accepts(address):
            return NOT_ALLOWED
        if b"\0" in address:
            return BAD_RECIPIENT
        letter.recipient(address + (self._suffix or b""))
        return ACCEPTED

    def _read(self) -> bytes:
        self._flush()
        try:
            data = os.read(0, BUFFER)
        except OSError:
            raise ClientGone from None
        if not data:
            raise ClientGone
        return data

    def _flush(self) -> None:
        if self._out:
            try:
                write_all(1, b"".join(self._out))
            except OSError:
                raise ClientGone from None
            self._out.clear()


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve one client on descriptors 0 and 1; arguments are ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    relaying = None
    try:
        with time_limit(SESSION_S):
            home = home_of(environ)
            os.chdir(home)
            control = Control(home)
            control.me()
            relaying = Relaying(control)
            return Session(home, environ, relaying, size_limit(control, environ)).run()
    except ClientGone:
        return DONE
    except (Trouble, TimeUp, ControlUnreadable, OSError, MemoryError):
        return TROUBLE
    finally:
        if relaying is not None:
            relaying.close()
