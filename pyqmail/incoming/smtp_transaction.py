"""One mail transaction of SMTP: MAIL, RCPT, DATA, and what becomes of the letter (RFC 5321 section 3.3)."""

from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import Letter, TooManyRecipients
from pyqmail.incoming.refusals import NO_MEMORY, NO_QUEUE, NOT_ASCII, STRAY_LF
from pyqmail.incoming.session import Session
from pyqmail.incoming.smtp_connection import SessionEnd, SmtpConnection
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.protocol.smtp_server import (
    ADDRESS_MAX,
    GO_AHEAD,
    OK,
    SYNTAX,
    BareLineFeed,
    BodyDecoder,
    State,
    parse_address,
    parse_parameters,
)


class SmtpTransaction:
    """The letter that a client is about to hand over, if there is one. Commands return the reply to them."""

    def __init__(self, settings: Settings, session: Session, connection: SmtpConnection, log: DecisionLog) -> None:
        self._settings = settings
        self._session = session
        self._connection = connection
        self._log = log
        self._letter: Letter | None = None

    @property
    def state(self) -> State:
        """How far it has come."""
        if self._letter is None:
            return State.IDLE
        return State.RECIPIENTS if self._letter.recipients else State.SENDER

    def forget(self) -> bytes:
        """RSET, or whatever else begins anew: the reply is the protocol's."""
        self._letter = None
        return b""

    def begin(self, argument: bytes) -> bytes:
        """MAIL. Where it is refused, what was before it stands."""
        sender = self._settings.localize(parse_address(argument))
        if len(sender) > ADDRESS_MAX:
            return SYNTAX
        letter = Letter(self._settings.rules.size_limit, sender, parse_parameters(argument))
        if not sender.isascii():  # SMTPUTF8 is not offered (RFC 6531 section 3.1, item 8)
            self._log.refused(self._session.client, letter, (), NOT_ASCII)
            return NOT_ASCII.line
        refusal = self._session.judge_sender(letter)
        if refusal is not None:
            self._log.refused(self._session.client, letter, (), refusal)
            return refusal.line
        self._letter = letter
        return OK

    def add(self, argument: bytes) -> bytes:
        """RCPT."""
        assert self._letter is not None
        recipient = self._settings.localize(parse_address(argument))
        if len(recipient) > ADDRESS_MAX:
            return SYNTAX
        try:
            refusal = self._session.add(self._letter, recipient) if recipient.isascii() else NOT_ASCII
        except TooManyRecipients:
            raise SessionEnd(NO_MEMORY) from None
        if refusal is None:
            return OK
        self._log.refused(self._session.client, self._letter, (recipient,), refusal)
        return refusal.line

    def take_message(self) -> bytes:
        """DATA: everything between 354 and the final reply, which is sent here, before the log hears of it."""
        letter, self._letter = self._letter, None
        assert letter is not None
        reply, number = NO_QUEUE, 0
        try:
            if self._open(letter):
                self._connection.stream.write(GO_AHEAD)
                self._copy(letter)
                reply, number = self._session.close(letter)
        except SessionEnd as end:
            if end.reply is not None:
                self._session.log_decision(letter, end.reply, 0)
            raise
        except OSError:  # whatever it is, the client hears that it has to come again
            reply, number = NO_QUEUE, 0
        finally:
            letter.abort()
        try:
            self._connection.stream.write(reply.line)
            self._connection.stream.flush()
        finally:
            self._session.log_decision(letter, reply, number)
        return b""

    def _open(self, letter: Letter) -> bool:
        try:
            self._session.open(letter)
        except OSError:
            return False
        return True

    def _copy(self, letter: Letter) -> None:
        """Message text from the client to the letter. Raises SessionEnd and StreamEnded."""
        decoder = BodyDecoder(letter.hops)
        while not decoder.done:
            try:
                letter.write(decoder.feed(self._connection.text()))
            except BareLineFeed:
                raise SessionEnd(STRAY_LF) from None
        if decoder.rest:
            self._connection.unread(decoder.rest)
