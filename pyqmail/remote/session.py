"""One message over one connection (qmail-remote(8))."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyqmail.failure import MailFailure, PermanentFailure
from pyqmail.formats.report import NOT_AT_ONCE, PASSED_ON
from pyqmail.protocol.sasl_client import Exchange, exchange
from pyqmail.protocol.smtp_client import UNAVAILABLE, Dialogue, Tls
from pyqmail.protocol.smtp_transaction import Transaction
from pyqmail.remote.connection import Connection, Conversation, Place
from pyqmail.remote.message import Message
from pyqmail.remote.security import SMTPS_PORT
from pyqmail.stream.stream import StreamEnded, StreamTimedOut, TlsFailed

NO_TLS = b" offers no TLS, which this message needs. (#5.7.10)\n"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyqmail.remote.extras import Extras


@dataclass(frozen=True, slots=True)
class Words:
    """What one delivery says to whichever host it meets.

    ``extended``: EHLO first; ``chunking``: BDAT where it is offered; ``extras``: where it has facts.
    """

    helohost: bytes
    sender: bytes
    recipients: Sequence[bytes]
    message: Message
    extended: bool = True
    chunking: bool = False
    extras: "Extras | None" = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The reports of a conversation.

    ``elsewhere``: nothing of the message was sent, and another host may take it. ``alive``: another message may follow.
    ``tls_trouble``: why there was no TLS as it was asked for, or no handshake where one was tried. ``less``: we were
    asked for less mail. ``unchunked``: BDAT came to nothing there, and DATA may not.
    """

    reports: list[bytes]
    elsewhere: bool = False
    alive: bool = False
    tls_trouble: bytes = b""
    less: bool = False
    unchunked: bool = False


def format_failure(failure: MailFailure) -> bytes:
    """The message report of ``failure``, without its NUL."""
    return (b"D" if isinstance(failure, PermanentFailure) else b"Z") + failure.text + b"\n"


def talk(connection: Connection, say: Words) -> Outcome:
    """What comes of ``say`` on ``connection``, which is closed then, or ``alive`` and the caller's."""
    immediate = connection.place.port == SMTPS_PORT
    dialogue = _dialogue(connection, say, immediate=immediate)
    conversation = Conversation(connection, dialogue, say.message)
    try:
        if immediate and connection.fresh:
            connection.start_tls()
        finish = conversation.hold()
    except MailFailure as failure:
        connection.close()
        return Outcome([*dialogue.reports, format_failure(failure)])
    except TlsFailed as error:
        connection.close()
        report = b"ZConnected to " + connection.peer + b" but TLS failed: " + str(error).encode() + b". (#4.7.5)\n"
        return Outcome([report], elsewhere=True, tls_trouble=str(error).encode())
    except StreamEnded as error:
        connection.close()
        unchunked = conversation.chunked and not conversation.critical and not isinstance(error, StreamTimedOut)
        duplicate = b"Possible duplicate! " if conversation.critical else b""
        text = b"Connected to " + connection.peer + b" but connection died. " + duplicate + b"(#4.4.2)\n"
        report = dialogue.lost(text, sent=conversation.critical)
        elsewhere = unchunked or not conversation.body_begun
        return Outcome([*dialogue.reports, report], elsewhere, less=dialogue.asked_for_less, unchunked=unchunked)
    if not finish.accepted:
        connection.quit()
    report = finish.report
    if say.extras is not None and report.startswith(b"K") and say.extras.passed_on(dialogue.offered):
        report = report.removesuffix(b"\n") + PASSED_ON
    report += _how_signed(say.message)
    refused = not dialogue.introduced or dialogue.last_code == UNAVAILABLE or _unprotected(say, dialogue)
    if dialogue.tls_trouble and say.extras is not None and say.extras.requires_tls:
        report = b"D" + connection.peer + NO_TLS
    return Outcome(
        [*dialogue.reports, *_left_out(dialogue, connection.peer), report + _how_secured(connection)],
        elsewhere=dialogue.unchunked or refused and not conversation.body_begun,
        alive=finish.accepted,
        tls_trouble=dialogue.tls_trouble,
        less=dialogue.asked_for_less,
        unchunked=dialogue.unchunked,
    )


def _dialogue(connection: Connection, say: Words, *, immediate: bool) -> Dialogue:
    """What is said on ``connection``; ``immediate``: TLS comes before it."""
    place = connection.place
    return Dialogue(
        connection.peer,
        place.helo or say.helohost,
        say.sender,
        say.recipients,
        offered=connection.offered,
        extended=say.extended,
        tls=Tls.NEVER if immediate else place.security.starttls,
        measure=say.message.measure,
        login=_login(place),
        kind=_kind(place),
        extras=say.extras,
        chunking=say.chunking and not place.lmtp,
    )


def _unprotected(say: Words, dialogue: Dialogue) -> bool:
    """Whether another host may offer REQUIRETLS, which this one does not."""
    return say.extras is not None and say.extras.misses_requiretls(dialogue.offered, say.sender)


def _kind(place: Place) -> type[Transaction]:
    """How a message is given there."""
    if not place.lmtp:
        return Transaction
    from pyqmail.protocol.lmtp_client import LmtpTransaction  # few relays speak it

    return LmtpTransaction


def _login(place: Place) -> Callable[[Sequence[bytes]], Exchange] | None:
    """How to log in there, given the mechanisms that the server offers."""
    login = place.login
    if login is None:
        return None
    from pyqmail.remote.credentials import secret_of  # few relays ask for a password

    return lambda offered: exchange(login, lambda: secret_of(login), offered, place.exchanger, place.port)


def _how_signed(message: Message) -> bytes:
    """The line about DKIM in a report; none for a message that no key here could sign."""
    if message.unsigned:
        return b"dkim=none, " + message.unsigned + b"\n"
    domain = message.above.partition(b" d=")[2].partition(b";")[0]
    return b"dkim=" + domain + b"\n" if domain else b""


def _how_secured(connection: Connection) -> bytes:
    """The line about TLS that a report ends with; none in clear where nobody asked for more."""
    security = connection.place.security
    if connection.secured is None:
        return b"tls=none, " + security.note + b"\n" if security.note else b""
    verified = b"verified by " + security.by if security.names else security.by and b"encrypted by " + security.by
    how = verified or b"opportunistic"
    return b"tls=" + b", ".join(filter(None, (connection.secured.version.encode(), how, security.note))) + b"\n"


def _left_out(dialogue: Dialogue, peer: bytes) -> list[bytes]:
    """The reports of recipients that the peer does not take at once with those before them."""
    return [b"s" + peer + NOT_AT_ONCE] * len(dialogue.left) if dialogue.reports else []
