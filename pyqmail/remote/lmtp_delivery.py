"""One message to one mailbox by LMTP, from a .qmail program (qmail-lmtp(1))."""

import os

from pyqmail.failure import MailFailure, TemporaryFailure
from pyqmail.formats.report import remote_report
from pyqmail.protocol.dns import parse_literal
from pyqmail.protocol.smtp_transaction import carriable
from pyqmail.remote.connection import Connection, Place
from pyqmail.remote.message import Message
from pyqmail.remote.routes import parse_route
from pyqmail.remote.security import Security
from pyqmail.remote.session import Words, format_failure, talk
from pyqmail.stream.stream import Stream, TlsFailed

LMTP_PORT = 24  # what people use: RFC 2033 names none
CONNECT_S = 60.0
ANSWER_S = 1200.0  # each answer: a server may file a large message before it says so
DOUBLE_BOUNCE = b"#@[]"  # the sender of one; to others it is a bounce

BAD_ADDRESS = b"Sender or recipient address contains CR, LF or NUL, which LMTP cannot carry. (#5.1.3)"
NO_CONNECTION = b"Unable to connect to "


def parse_place(where: bytes) -> Place | None:
    """Where ``PATH``, ``ADDRESS`` or ``ADDRESS:PORT`` leads; None if it is none of these."""
    if where[:1] == b"/":
        return Place(b"", 0, where, lmtp=True, socket=where)
    route = parse_route(where)
    packed = parse_literal(route.relay) if route else None
    if route is None or packed is None:
        return None
    port = route.port if len(where) > len(route.relay) else LMTP_PORT
    return Place(packed, port, route.relay, lmtp=True) if port else None


def deliver(place: Place, helohost: bytes, sender: bytes, recipient: bytes, above: bytes) -> bytes:
    """Give the message on descriptor 0, below the fields in ``above``, to ``recipient``.

    The report of the delivery: a letter (K, Z, D) and a text, as those of qmail-remote. Never raises for the server.
    """
    if not (carriable(sender) and carriable(recipient)):
        return b"D" + BAD_ADDRESS + b"\n"
    message = Message(0)
    try:
        if above:
            message.prepend(lambda pieces: above)
        reports = _talk(place, Words(helohost, b"" if sender == DOUBLE_BOUNCE else sender, [recipient], message))
    except MailFailure as failure:
        reports = [format_failure(failure)]
    return remote_report(0, b"".join(report + b"\0" for report in reports))


def _talk(place: Place, words: Words) -> list[bytes]:
    try:
        connection = Connection(place, CONNECT_S, ANSWER_S, _no_handshake)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "no answer"
        raise TemporaryFailure(NO_CONNECTION + place.exchanger + b": " + reason.encode() + b". (#4.4.1)") from error
    outcome = talk(connection, words)
    if outcome.alive:
        connection.quit()
    return outcome.reports


def _no_handshake(stream: Stream, security: Security, exchanger: bytes) -> Stream:
    raise TlsFailed("not asked for")
