"""qmail-qmqpd: one message by QMQP on descriptors 0 and 1 (qmail-qmqpd(8)).

Whoever can connect may send anywhere: tcpserver's rules must name the clients. 0 after the answer and when the client
ends early, 100 for a broken protocol, 111 for local trouble and after an hour.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence

from pyqmail.control import home_of
from pyqmail.formats.netstring import NetstringTooLong, format_netstring
from pyqmail.formats.received import format_network_received
from pyqmail.intake.client import Injection
from pyqmail.protocol.netstring_reader import Event, Kind
from pyqmail.protocol.qmqp import QmqpReader
from pyqmail.system.alarm import TimeUp, time_limit
from pyqmail.system.files import write_all

BUFFER = 65536
SESSION_S = 3600
RECIPIENTS_MAX = 8388608  # bytes that the recipients may take, 64 for each besides its own
DONE, BAD_PROTOCOL, TROUBLE = 0, 100, 111
BAD_ADDRESS = b"Dsorry, I can't accept addresses like that (#5.1.3)"


class Session:
    """One client and its message."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes]) -> None:
        self._home = home
        self._environ = environ
        self._injection: Injection | None = None
        self._sender = b""
        self._recipients: list[bytes] = []
        self._recipient_bytes = 0
        self._acceptable = True

    def run(self) -> int:
        """Serve; the exit code. Raises OSError, TimeUp and MemoryError."""
        reader = QmqpReader()
        try:
            while reader.fault is None and not reader.ended:
                data = read()
                if not data:
                    return DONE
                for event in reader.feed(data):
                    self._take(event)
            if reader.fault is not None:
                return TROUBLE if isinstance(reader.fault, NetstringTooLong) else BAD_PROTOCOL
            answer = format_netstring(self._close())
        finally:
            if self._injection is not None:
                self._injection.abort()
        try:
            write_all(1, answer)
        except OSError:
            pass  # the message is in the queue, whoever hears of it
        return DONE

    def _take(self, event: Event) -> None:
        kind, data = event
        if kind is Kind.BEGIN:
            os.chdir(self._home)
            self._injection = Injection.open(self._home, self._environ, warm=True)
            self._injection.write(format_network_received(b"QMQP", self._environ, None, time.time()))
            return
        assert self._injection is not None
        if kind is Kind.TEXT:
            self._injection.write(data or b"")
        elif kind is Kind.END:
            return
        elif data is None or b"\0" in data:
            self._acceptable = False
            self._injection.fail()
        elif kind is Kind.SENDER:
            self._sender = data
        else:
            self._recipients.append(data)
            self._recipient_bytes += len(data) + 64
            if self._recipient_bytes > RECIPIENTS_MAX:
                raise MemoryError

    def _close(self) -> bytes:
        assert self._injection is not None
        answer = self._injection.close(self._sender, self._recipients)
        if not self._acceptable:
            return BAD_ADDRESS
        letter, text = answer.letter_text()
        return b"Kok %d qp %d" % (time.time(), answer.number) if letter == b"K" else letter + text


def read() -> bytes:
    """What has come; nothing at the end and after an error."""
    try:
        return os.read(0, BUFFER)
    except OSError:
        return b""


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """Serve one client on descriptors 0 and 1; arguments are ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        with time_limit(SESSION_S):
            return Session(home_of(environ), environ).run()
    except (TimeUp, OSError, MemoryError):
        return TROUBLE
