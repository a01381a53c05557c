"""One mail transaction of SMTP: MAIL, RCPT, DATA, and what becomes of the letter (RFC 5321 section 3.3)."""

from pyqmail.incoming.decisions import DecisionLog
from pyqmail.incoming.letter import Letter, TooManyRecipients
from pyqmail.incoming.refusals import (
    NO_MEMORY,
    NO_QUEUE,
    NO_REQUIRETLS,
    NO_SUCH_PARAMETER,
    NOT_ASCII,
    NOT_SAID_ASCII,
    STRAY_LF,
    TOO_MANY_RECIPIENTS,
)
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
    BareLineFeed,
    BodyDecoder,
    State,
    names_any,
    parse_address,
    parse_parameters,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.chunks import Chunks
    from pyqmail.incoming.letter_facts import LetterFacts

# Parameters of MAIL (RFC 6531 section 3.4, RFC 8689 section 2)
SMTPUTF8, REQUIRETLS = b"SMTPUTF8", b"REQUIRETLS"
# And those of the DSN extension (protocol/dsn, which few need).
OF_MAIL = (b"RET=", b"ENVID=", SMTPUTF8, REQUIRETLS)
OF_RCPT = (b"NOTIFY=", b"ORCPT=")


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
        refusal = self._note(letter) if names_any(letter.parameters, OF_MAIL) else None
        if refusal is not None:
            return refusal.line
        if not _sayable(letter, sender):
            unsayable = Reply(550, self._not_ascii().text)  # 553 is of RCPT (RFC 6531 section 3.5)
            self._log.refused(self._session.client, letter, (), unsayable)
            return unsayable.line
        return self._begin(letter)

    def _begin(self, letter: Letter, *, checked: bool = True) -> bytes:
        refusal = self._session.judge_sender(letter) if checked else None
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
        parameters = parse_parameters(argument)
        if names_any(parameters, OF_RCPT) and self._letter.facts is None:
            self._note(self._letter)
        try:
            if self._letter.facts is not None:
                refusal = self._add_with_facts(self._letter, self._letter.facts, recipient, parameters)
            else:
                refusal = self._add(self._letter, recipient)
        except TooManyRecipients:
            raise SessionEnd(NO_MEMORY) from None
        if refusal is None:
            return OK
        self._log.refused(self._session.client, self._letter, (recipient,), refusal)
        return refusal.line

    def _add(self, letter: Letter, recipient: bytes, *, checked: bool = True) -> Reply | None:
        if not _sayable(letter, recipient):
            return self._not_ascii()
        return self._session.add(letter, recipient, checked=checked)

    def _not_ascii(self) -> Reply:
        return NOT_SAID_ASCII if self._settings.offers_smtputf8 else NOT_ASCII

    def _add_with_facts(
        self, letter: Letter, facts: "LetterFacts", recipient: bytes, parameters: bytes
    ) -> Reply | None:
        """As ``_add``, where something was said beside the envelope."""
        from pyqmail.protocol.dsn import WrongParameter

        try:
            said = facts.parse(parameters)
        except WrongParameter:
            return NO_SUCH_PARAMETER
        if not facts.has_room(said, recipient):
            return TOO_MANY_RECIPIENTS
        refusal = self._add(letter, recipient)
        if refusal is None:
            facts.add(said, letter.recipients[-1])
        return refusal

    def _note(self, letter: Letter) -> Reply | None:
        """Begin to keep what the client says of ``letter`` beside its envelope, if it may; or the refusal.

        Who may not is not heard, as in qmail, but where mail that it wants protected would not be.
        """
        client, words = self._session.client, letter.parameters.upper().split()
        wishes = self._settings.offers_dsn(client)
        smtputf8 = SMTPUTF8 in words and self._settings.offers_smtputf8
        requiretls = any(word.partition(b"=")[0] == REQUIRETLS for word in words)
        if requiretls and not self._settings.offers_requiretls(client):
            return NO_REQUIRETLS
        if not (wishes or smtputf8 or requiretls):
            return None
        from pyqmail.incoming.letter_facts import begin_facts  # few clients say anything

        trusted = client.relay is not None
        known = begin_facts(letter, wishes=wishes, trusted=trusted, smtputf8=smtputf8, requiretls=requiretls)
        return None if known else NO_SUCH_PARAMETER

    def take_message(self) -> bytes:
        """DATA: everything between 354 and the final reply, which is sent here, before the log hears of it."""
        letter = self._letter
        assert letter is not None
        reply, number = self._begin_text(letter), 0
        self._letter = None
        try:
            if reply is None:
                reply = NO_QUEUE
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
        return None if self._open(letter) else NO_QUEUE

    def _conclude(self, letter: Letter, reply: Reply, number: int) -> bytes:
        """Let the client hear ``reply`` to its message, then the log."""
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


def _sayable(letter: Letter, address: bytes) -> bool:
    """Whether ``letter`` may have ``address``: UTF-8 after SMTPUTF8, else ASCII (RFC 6531 section 3.1, item 8)."""
    if address.isascii():
        return True
    if letter.facts is None or not letter.facts.smtputf8:
        return False
    try:
        address.decode()
    except UnicodeDecodeError:
        return False
    return True
