"""One mail transaction of SMTP: MAIL, RCPT, DATA, and what becomes of the letter (RFC 5321 section 3.3)."""

from functools import partial

from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import Letter, TooManyRecipients
from pyqmail.incoming.refusals import NO_MEMORY, NO_QUEUE
from pyqmail.incoming.said_beside import OF_MAIL, OF_RCPT, note_mail, note_recipient, unsayable
from pyqmail.incoming.session import Session
from pyqmail.incoming.smtp_connection import SessionEnd, SmtpConnection
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.protocol.reply import Reply
from pyqmail.protocol.smtp_server import (
    ADDRESS_MAX,
    CHUNK_TAKEN,
    GO_AHEAD,
    OK,
    SYNTAX,
    State,
    names_any,
    parse_address,
    parse_parameters,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.chunks import Chunks


class SmtpTransaction:
    """The letter that a client is about to hand over, if there is one. Commands return the reply to them."""

    def __init__(self, settings: Settings, session: Session, connection: SmtpConnection, log: DecisionLog) -> None:
        self._settings = settings
        self._session = session
        self._connection = connection
        self._log = log
        self._letter: Letter | None = None
        self._chunks: Chunks | None = None  # its text, where some of it has come by BDAT

    def connected(self) -> None:
        """Before the greeting. Raises SessionEnd."""

    def greeted(self) -> bytes:
        """After HELO or EHLO: a reply in place of the protocol's."""
        return b""

    def admitted(self, user: bytes, method: bytes) -> Reply | None:
        """After a right password: a refusal all the same."""
        return None

    @property
    def state(self) -> State:
        """How far it has come."""
        if self._letter is None:
            return State.IDLE
        if self._chunks is not None:
            return State.CHUNKS
        return State.RECIPIENTS if self._letter.recipients else State.SENDER

    def forget(self) -> bytes:
        """RSET, or whatever else begins anew: the reply is the protocol's."""
        if self._letter is not None:
            self._letter.abort()
        self._letter = self._chunks = None
        return b""

    def begin(self, argument: bytes) -> bytes:
        """MAIL. Where it is refused, what was before it stands."""
        sender = self._settings.localize(parse_address(argument))
        if len(sender) > ADDRESS_MAX:
            return SYNTAX
        letter = Letter(self._settings.rules.size_limit, sender, parse_parameters(argument))
        said = names_any(letter.parameters, OF_MAIL)
        refusal = note_mail(self._settings, self._session.client, letter) if said else None
        if refusal is not None:
            return refusal.line
        refusal = unsayable(self._settings, letter, sender)
        if refusal is not None:
            return self._refuse(letter, (), Reply(550, refusal.text))  # 553 is of RCPT (RFC 6531 section 3.5)
        return self._begin(letter)

    def _begin(self, letter: Letter, *, checked: bool = True) -> bytes:
        refusal = self._session.judge_sender(letter) if checked else None
        if refusal is not None:
            return self._refuse(letter, (), refusal)
        self._letter = letter
        return OK

    def _refuse(self, letter: Letter, recipients: tuple[bytes, ...], refusal: Reply) -> bytes:
        self._log.refused(self._session.client, letter, recipients, refusal)
        return refusal.line

    def add(self, argument: bytes) -> bytes:
        """RCPT."""
        letter = self._letter
        assert letter is not None
        recipient = self._settings.localize(parse_address(argument))
        if len(recipient) > ADDRESS_MAX:
            return SYNTAX
        parameters = parse_parameters(argument)
        if letter.facts is None and names_any(parameters, OF_RCPT):
            note_mail(self._settings, self._session.client, letter)
        try:
            if letter.facts is None:
                refusal = self._add(letter, recipient)
            else:
                add = partial(self._add, letter, recipient)
                refusal = note_recipient(letter, letter.facts, parameters, recipient, add)
        except TooManyRecipients:
            raise SessionEnd(NO_MEMORY) from None
        return OK if refusal is None else self._refuse(letter, (recipient,), refusal)

    def _add(self, letter: Letter, recipient: bytes, *, checked: bool = True) -> Reply | None:
        return unsayable(self._settings, letter, recipient) or self._session.add(letter, recipient, checked=checked)

    def take_message(self) -> bytes:
        """DATA: everything between 354 and the final reply, which is sent here, before the log hears of it."""
        letter = self._letter
        assert letter is not None
        reply, number = self._begin_text(letter), 0
        self._letter = None
        try:
            if reply is None:
                reply = NO_QUEUE
                self._connection.answer(GO_AHEAD)
                for text in self._connection.message(letter.hops):
                    letter.write(text)
                reply, number = self._session.close(letter)
        except SessionEnd as end:
            if end.reply is not None:
                self._session.log_decision(letter, end.reply, 0)
            raise
        except OSError:  # whatever it is, the client hears that it has to come again
            reply, number = NO_QUEUE, 0
        finally:
            letter.abort()
        return self._conclude(letter, reply, number)

    def take_chunk(self, argument: bytes) -> bytes:
        """BDAT: its octets are read whatever the reply is. A message that would lack some of them is given up."""
        from pyqmail.incoming.chunks import Chunks  # few clients say it

        letter = self._letter if self.state in (State.RECIPIENTS, State.CHUNKS) else None
        limit = self._settings.rules.size_limit
        chunks = self._chunks or Chunks(self._session, self._connection, limit, self._begin_text)
        answer = chunks.take(letter, argument)
        if letter is None:
            return b""  # the protocol has the reply
        if answer is None:
            self._chunks = chunks
            return CHUNK_TAKEN
        letter.abort()
        self._letter = self._chunks = None
        return self._conclude(letter, *answer)

    def _begin_text(self, letter: Letter) -> Reply | None:
        """Be ready for the text of ``letter``, or the refusal."""
        try:
            self._session.open(letter)
        except OSError:
            return NO_QUEUE
        return None

    def _conclude(self, letter: Letter, reply: Reply, number: int) -> bytes:
        """Let the client hear ``reply`` to its message, then the log."""
        try:
            self._connection.stream.say(reply.line)
        finally:
            self._session.log_decision(letter, reply, number)
        return b""
