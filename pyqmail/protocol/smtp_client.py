"""The client's half of an SMTP conversation, without descriptors (qmail-remote(8), RFC 5321).

    greeting 220 -> EHLO 250, or HELO 250 -> STARTTLS 220 -> EHLO 250
             -> AUTH 235 -> MAIL <400 -> RCPT each -> DATA <400 -> body and "." <400 -> QUIT

HELO follows a refused EHLO, STARTTLS only where it is offered and wanted.
A driver asks `Dialogue.step()` what to do: await bytes (and `feed` them), send commands, shake hands, send the body, or
finish. On a connection that has carried a message already the conversation begins at MAIL.
"""

import re
from collections.abc import Callable, Generator, Sequence
from enum import Enum

from pyqmail.protocol.host_names import ascii_host
from pyqmail.protocol.sasl_client import Exchange
from pyqmail.protocol.smtp_extensions import NOTHING_OFFERED, Extensions, parse_extensions
from pyqmail.protocol.smtp_replies import Reply, ReplyReader
from pyqmail.protocol.smtp_transaction import (
    HELO,
    Await,
    Finish,
    Measure,
    Parameters,
    Send,
    StartTls,
    Step,
    Transaction,
    verdict,
)

NOT_OFFERED, REJECTED = b"STARTTLS is not offered", b"STARTTLS is rejected"
UNAVAILABLE = 421  # the server is about to close the connection (RFC 5321 section 3.8)

_LESS = re.compile(rb"421|45[0-3][ -]4\.7\.")  # 454 is of AUTH and STARTTLS
_GREYLISTED = re.compile(rb"45\d[ -]4\.7\.1(?!\d)")


def asks_for_less(reply: Reply, *, to_rcpt: bool) -> bool:
    """Whether a server asks for less mail, and not only for this message to come later, as to RCPT with 4.7.1."""
    return bool(_LESS.match(reply.text)) and not (to_rcpt and _GREYLISTED.match(reply.text))


class Tls(Enum):
    """Whether a conversation in clear is to become one under TLS."""

    NEVER = "never, or it is under TLS already"
    MAY = "where STARTTLS is offered"
    MUST = "or not at all"


class Dialogue:
    """One message to one peer, in the manner of ``kind``.

    ``offered``: the extensions of a connection that is introduced already; None: it begins with the greeting.
    ``login`` makes the exchange for the mechanisms that are offered.
    ``measure`` is asked only where the peer offers an extension that needs it, and may raise MailFailure.
    """

    def __init__(
        self,
        peer: bytes,
        helohost: bytes,
        sender: bytes,
        recipients: Sequence[bytes],
        *,
        offered: Extensions | None = None,
        tls: Tls = Tls.NEVER,
        extended: bool = True,
        measure: Callable[[], Measure] | None = None,
        login: Callable[[Sequence[bytes]], Exchange] | None = None,
        kind: type[Transaction] = Transaction,
        extras: Parameters | None = None,
        chunking: bool = False,
    ) -> None:
        self.last_code = 0  # of the last reply
        self.asked_for_less = False  # by any of them
        self.introduced = offered is not None  # greeting and EHLO or HELO are behind us
        self.tls_trouble = b""  # why there is no TLS though there must be
        self.offered = offered or NOTHING_OFFERED
        self._peer = peer
        self._helohost = ascii_host(helohost)  # what the peer knows is not known yet (RFC 6531 section 3.7.1)
        self._sender = sender
        self._recipients = recipients
        self._tls = tls
        self._extended = extended
        self._measure = measure
        self._login = login
        self._kind = kind
        self._extras = extras
        self._chunking = chunking
        self._transaction: Transaction | None = None
        self._replies = ReplyReader()
        self._script = self._converse()
        self._asked: Step | None = None
        self._finished: Finish | None = None

    @property
    def reports(self) -> list[bytes]:
        """The recipient reports so far, in order, without their NULs."""
        return self._transaction.reports if self._transaction else []

    @property
    def left(self) -> Sequence[bytes]:
        """Recipients that the peer does not take in one transaction."""
        return self._transaction.left if self._transaction else ()

    @property
    def unchunked(self) -> bool:
        """Whether the peer has offered CHUNKING, and does not know BDAT."""
        return self._transaction is not None and self._transaction.unchunked

    def feed(self, data: bytes) -> None:
        """Take more bytes from the peer."""
        self._replies.feed(data)

    def step(self) -> Step:
        """What to do next; after StartTls the handshake has been made."""
        while self._finished is None:
            try:
                if self._asked is None or isinstance(self._asked, StartTls):
                    self._asked = next(self._script)
                else:
                    reply = self._replies.next()
                    if reply is None:
                        return Await()
                    self.last_code = reply.code
                    if reply.code >= 400:
                        to_rcpt = self._transaction is not None and self._transaction.naming
                        self.asked_for_less = self.asked_for_less or asks_for_less(reply, to_rcpt=to_rcpt)
                    self._asked = self._script.send(reply)
            except StopIteration as end:
                report: bytes = end.value
                self._finished = Finish(report, accepted=report[:1] == b"K" and self._replies.idle())
                break
            if not isinstance(self._asked, Await):  # else the reply may be here already
                return self._asked
        return self._finished

    def lost(self, text: bytes, *, sent: bool) -> bytes:
        """As `Transaction.lost`, at any time."""
        return self._transaction.lost(text, sent=sent) if self._transaction else b"Z" + text

    def _converse(self) -> Generator[Step, Reply, bytes]:
        """The whole conversation: yields what to do, is sent the replies, returns the message report."""
        if not self.introduced:
            refusal = yield from self._introduce()
            if refusal:
                return refusal
            self.introduced = True
            if self._login is not None:
                refusal = yield from self._log_in(self._login)
                if refusal:
                    return refusal
        self._transaction = self._kind(
            self._peer,
            self._sender,
            self._recipients,
            offered=self.offered,
            measure=self._measure,
            extras=self._extras,
            chunking=self._chunking,
        )
        return (yield from self._transaction.run())

    def _introduce(self) -> Generator[Step, Reply, bytes]:
        """All up to MAIL; returns the message report if that is the end of it, else nothing."""
        reply = yield Await()
        if reply.code != 220:
            return self._connected(b"Z", b"greeting failed", reply)
        refusal = yield from self._say_hello()
        if not refusal and self._tls is not Tls.NEVER:
            refusal = yield from self._secure()
        return refusal

    def _say_hello(self) -> Generator[Step, Reply, bytes]:
        """The first of the hellos that the peer takes; anything but 250 to the last one is the end."""
        for verb in self._kind.HELLOS if self._extended else self._kind.HELLOS[-1:]:
            reply = yield Send(verb + b" " + self._helohost + b"\r\n")
            if reply.code == 250:
                self.offered = NOTHING_OFFERED if verb == HELO else parse_extensions(reply.text)
                return b""
            if reply.code == UNAVAILABLE:
                break
        return self._connected(b"Z", b"my name was rejected", reply)

    def _secure(self) -> Generator[Step, Reply, bytes]:
        must = self._tls is Tls.MUST
        if b"STARTTLS" not in self.offered:
            self.tls_trouble = NOT_OFFERED if must else b""
            return b"ZConnected to " + self._peer + b" but TLS was not offered. (#4.7.4)\n" if must else b""
        reply = yield Send(b"STARTTLS\r\n")
        if reply.code != 220:
            if must or reply.code == UNAVAILABLE:
                self.tls_trouble = REJECTED if must else b""
                return self._connected(b"Z", b"STARTTLS was rejected", reply)
            return b""
        if not self._replies.idle():  # words in clear that would count as if they were said under TLS
            return b"ZConnected to " + self._peer + b" but it spoke between STARTTLS and TLS. (#4.7.0)\n"
        yield StartTls()
        self._replies = ReplyReader()
        self.offered = NOTHING_OFFERED
        return (yield from self._say_hello())

    def _log_in(self, login: Callable[[Sequence[bytes]], Exchange]) -> Generator[Step, Reply, bytes]:
        """AUTH. A login that is refused is our own trouble: the message waits, whatever the code says."""
        exchange = login(self.offered.offered.get(b"AUTH", ()))
        reply: Reply | None
        try:
            line = next(exchange)
            while True:
                reply = yield Send(line + b"\r\n")
                line = exchange.send(reply)
        except StopIteration as end:
            reply = end.value
        if reply is None:
            return b"ZConnected to " + self._peer + b" but no AUTH of ours was offered. (#4.7.0)\n"
        return b"" if reply.code == 235 else self._connected(b"Z", b"our login was rejected", reply)

    def _connected(self, letter: bytes, what: bytes, reply: Reply) -> bytes:
        return verdict(letter, b"Connected to " + self._peer + b" but " + what, reply)
