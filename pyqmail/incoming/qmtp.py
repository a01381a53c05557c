"""One QMTP session: messages one after another, an answer for each recipient (cr.yp.to/proto/qmtp.txt, qmail-qmtpd(8)).

The same checks as by SMTP. Text comes before its envelope, so that a refused message has been read to its end.
"""

from collections.abc import Mapping

from pyqmail.formats.netstring import NetstringTooLong, format_netstring
from pyqmail.incoming.check import Rules
from pyqmail.incoming.checks import CHECKS, Checks
from pyqmail.incoming.decisions import LOG_WAIT_S, DecisionLog
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.refusals import UNACCEPTABLE_RECIPIENT, UNACCEPTABLE_SENDER
from pyqmail.incoming.session import Session
from pyqmail.protocol.netstring_reader import ADDRESS_MAX, Event, Kind
from pyqmail.protocol.qmtp import QmtpReader
from pyqmail.protocol.reply import Reply
from pyqmail.stream.stream import Stream

BAD_PROTOCOL, TROUBLE = 100, 111


class Settings:
    """What one session knows before it begins. Raises ControlUnreadable."""

    def __init__(self, home: str, environ: Mapping[bytes, bytes]) -> None:
        self.home = home
        self.environ = environ
        self.rules = Rules(home, environ)
        self.rules.control.me()
        self.checks = Checks(CHECKS, self.rules)

    def close(self) -> None:
        """Give back what is open."""
        self.checks.close()
        self.rules.close()


class QmtpSession:
    """One client."""

    def __init__(self, settings: Settings, stream: Stream, log: DecisionLog) -> None:
        self._rules = settings.rules
        self._stream = stream
        self._log = log
        self._session = Session(settings.home, settings.environ, settings.checks, log, b"QMTP")
        self._letter: Letter | None = None
        self._sender_given = False  # and not one that nobody can have
        self._answers: list[Reply | None] = []  # by recipient; None: what becomes of the message
        self._decisions: list[tuple[Letter, tuple[bytes, ...] | None, Reply, int]] = []  # for the log, once answered

    def run(self) -> int:
        """Serve until the protocol is broken; the exit code. Raises StreamEnded, TooManyRecipients, ControlUnreadable,
        OSError and TimeUp."""
        reader = QmtpReader()
        if self._session.greet() is not None:
            return TROUBLE
        if self._rules.relaying.rcpthosts_missing and self._session.client.relay is None:
            self._log.say(b"no control/rcpthosts: only me and locals are accepted")
        self._session.say_notes()
        self._log.wait_s = LOG_WAIT_S
        try:
            while reader.fault is None:
                self._answered()
                for event in reader.feed(self._stream.read()):
                    self._take(event)
            self._answered()
            return TROUBLE if isinstance(reader.fault, NetstringTooLong) else BAD_PROTOCOL
        finally:
            if self._letter is not None:
                self._letter.abort()

    def _answered(self) -> None:
        """Send the answers, and then tell the log."""
        try:
            self._stream.flush()
        finally:
            decisions, self._decisions = self._decisions, []
            for letter, recipients, reply, number in decisions:
                if recipients is None:
                    self._session.log_decision(letter, reply, number)
                else:
                    self._log.refused(self._session.client, letter, recipients, reply)

    def _take(self, event: Event) -> None:
        kind, data = event
        if kind is Kind.BEGIN:
            self._letter = Letter(self._rules.size_limit)
            self._answers = []
            self._session.open(self._letter)
            return
        letter = self._letter
        assert letter is not None
        if kind is Kind.TEXT:
            letter.take(data or b"")
        elif kind is Kind.SENDER:
            self._begin(letter, data)
        elif kind is Kind.RECIPIENT:
            self._answers.append(self._add(letter, data))
        else:
            self._close(letter)
            self._letter = None

    def _begin(self, letter: Letter, sender: bytes | None) -> None:
        """The sender; one that is too long or holds a NUL is not acceptable, which good recipients hear."""
        self._sender_given = sender is not None and b"\0" not in sender
        letter.sender = sender or b"" if self._sender_given else b""
        if self._sender_given:
            now = self._session.judge_sender(letter)
            letter.refusal = letter.refusal or now

    def _add(self, letter: Letter, address: bytes | None) -> Reply | None:
        """The refusal of one recipient, None if it gets the message."""
        if address is None or len(address) + len(self._session.client.relay or b"") > ADDRESS_MAX:
            return self._refuse(letter, b"", UNACCEPTABLE_RECIPIENT)
        if b"\0" in address:
            verdict = self._session.checks.recipient(self._session.client, letter, address)
            refusal = verdict.reply if verdict is not None else None
            return self._refuse(letter, address, refusal or UNACCEPTABLE_RECIPIENT)
        refusal = self._session.add(letter, address)
        return None if refusal is None else self._refuse(letter, address, refusal)

    def _refuse(self, letter: Letter, address: bytes, reply: Reply) -> Reply:
        self._decisions.append((letter, (address,), reply, 0))
        return reply

    def _close(self, letter: Letter) -> None:
        """Queue it, and answer for each recipient."""
        if not self._sender_given or not letter.recipients:
            letter.fail()
        reply, number = self._session.close(letter)
        if not self._sender_given and not letter.oversized and not letter.looping:
            reply, number = UNACCEPTABLE_SENDER, 0
        letter.abort()
        if letter.recipients:
            self._decisions.append((letter, None, reply, number))
        for refusal in self._answers:
            self._stream.write(format_netstring((refusal or reply).letter))
