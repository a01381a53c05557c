"""What clients say with MAIL and RCPT beside the envelope: DSN, SMTPUTF8, REQUIRETLS (RFC 3461, RFC 6531, RFC 8689)."""

from collections.abc import Callable

from pyqmail.incoming.client import Client
from pyqmail.incoming.letter import Letter
from pyqmail.incoming.refusals import (
    NO_REQUIRETLS,
    NO_SUCH_PARAMETER,
    NOT_ASCII,
    NOT_SAID_ASCII,
    TOO_MANY_RECIPIENTS,
)
from pyqmail.incoming.smtp_settings import Settings
from pyqmail.protocol.reply import Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.incoming.letter_facts import LetterFacts

# Parameters of MAIL (RFC 6531 section 3.4, RFC 8689 section 2)
SMTPUTF8, REQUIRETLS = b"SMTPUTF8", b"REQUIRETLS"
# And those of the DSN extension (protocol/dsn, which few need).
OF_MAIL = (b"RET=", b"ENVID=", SMTPUTF8, REQUIRETLS)
OF_RCPT = (b"NOTIFY=", b"ORCPT=")


def note_mail(settings: Settings, client: Client, letter: Letter) -> Reply | None:
    """Begin to keep what ``client`` says of ``letter``, if it may; or the refusal.

    Who may not is not heard, as in qmail, but where mail that it wants protected would not be.
    """
    words = letter.parameters.upper().split()
    wishes = settings.offers_dsn(client)
    smtputf8 = SMTPUTF8 in words and settings.offers_smtputf8
    requiretls = any(word.partition(b"=")[0] == REQUIRETLS for word in words)
    if requiretls and not settings.offers_requiretls(client):
        return NO_REQUIRETLS
    if not (wishes or smtputf8 or requiretls):
        return None
    from pyqmail.incoming.letter_facts import begin_facts  # few clients say anything

    trusted = client.relay is not None
    known = begin_facts(letter, wishes=wishes, trusted=trusted, smtputf8=smtputf8, requiretls=requiretls)
    return None if known else NO_SUCH_PARAMETER


def note_recipient(
    letter: Letter, facts: "LetterFacts", parameters: bytes, recipient: bytes, add: Callable[[], Reply | None]
) -> Reply | None:
    """``add`` the ``recipient`` to ``letter``, and what is said of it to the ``facts``; or the refusal."""
    from pyqmail.protocol.dsn import WrongParameter

    try:
        said = facts.parse(parameters)
    except WrongParameter:
        return NO_SUCH_PARAMETER
    if not facts.has_room(said, recipient):
        return TOO_MANY_RECIPIENTS
    refusal = add()
    if refusal is None:
        facts.add(said, letter.recipients[-1])
    return refusal


def unsayable(settings: Settings, letter: Letter, address: bytes) -> Reply | None:
    """The refusal of an ``address`` that ``letter`` may not have: UTF-8 without SMTPUTF8, or none of both (RFC 6531
    section 3.1, item 8)."""
    if address.isascii() or (letter.facts is not None and letter.facts.smtputf8 and _is_utf8(address)):
        return None
    return NOT_SAID_ASCII if settings.offers_smtputf8 else NOT_ASCII


def _is_utf8(address: bytes) -> bool:
    try:
        address.decode()
    except UnicodeDecodeError:
        return False
    return True
