"""One QMQP session: a message, and one answer for all its recipients (cr.yp.to/proto/qmqp.html, qmail-qmqpd(8)).

Its clients are trusted, since tcpserver's rules have chosen them: of the checks only the count of hops is asked.
"""

from pyqmail.formats.netstring import NetstringTooLong, format_netstring
from pyqmail.incoming.check import Rules
from pyqmail.incoming.checks import TRUSTED_CHECKS, Checks
from pyqmail.incoming.decisions import LOG_WAIT_S, DecisionLog
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.refusals import UNACCEPTABLE_ADDRESS
from pyqmail.incoming.session import Session
from pyqmail.protocol.netstring_reader import Event, Kind
from pyqmail.protocol.qmqp import QmqpReader
from pyqmail.stream.stream import Stream, StreamEnded
from pyqmail.system.process import WorkingIn

DONE, BAD_PROTOCOL, TROUBLE = 0, 100, 111


class QmqpSession:
    """One client and its message."""

    def __init__(self, rules: Rules, stream: Stream, log: DecisionLog) -> None:
        self._home = rules.home
        self._stream = stream
        self._log = log
        self._session = Session(rules.home, rules.environ, Checks(TRUSTED_CHECKS, rules), log, b"QMQP")
        self._letter = Letter(0)

    def run(self) -> int:
        """Serve; the exit code. Raises StreamEnded, TooManyRecipients, OSError and TimeUp."""
        reader = QmqpReader()
        self._log.wait_s = LOG_WAIT_S
        try:
            while reader.fault is None and not reader.ended:
                for event in reader.feed(self._stream.read()):
                    self._take(event)
            if reader.fault is not None:
                return TROUBLE if isinstance(reader.fault, NetstringTooLong) else BAD_PROTOCOL
            self._close()
        finally:
            self._letter.abort()
        return DONE

    def _take(self, event: Event) -> None:
        letter = self._letter
        kind, data = event
        if kind is Kind.BEGIN:
            with WorkingIn(self._home):
                self._session.open(letter)
        elif kind is Kind.TEXT:
            letter.take(data or b"")
        elif kind is Kind.END:
            return
        elif data is None or b"\0" in data:
            letter.refusal = UNACCEPTABLE_ADDRESS
        elif kind is Kind.SENDER:
            letter.sender = data
        else:
            letter.add(data)

    def _close(self) -> None:
        """Queue it and answer. The message is in the queue, whoever hears of it."""
        letter = self._letter
        reply, number = self._session.close(letter)
        try:
            self._stream.write(format_netstring(reply.letter))
            self._stream.flush()
        except StreamEnded:
            pass
        self._session.log_decision(letter, reply, number)
