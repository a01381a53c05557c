"""The client's half of an SMTP conversation, without descriptors (qmail-remote(8), RFC 5321).

    greeting 220 -> EHLO 250, or HELO 250 -> STARTTLS 220 -> EHLO 250
             -> AUTH 235 -> MAIL <400 -> RCPT each -> DATA <400 -> body and "." <400 -> QUIT

HELO follows a refused EHLO, STARTTLS only where it is offered and wanted. With PIPELINING (RFC 2920) MAIL, RCPT and
DATA go together; a 354 that then comes without any accepted recipient is followed by no dot, so nothing can be taken.
A driver asks `Dialogue.step()` what to do: await bytes (and `feed` them), send commands, shake hands, send the body, or
finish. On a connection that has carried a message already the conversation begins at MAIL.
"""

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum

from pyqmail import address
from pyqmail.protocol.sasl_client import Exchange
from pyqmail.protocol.smtp_extensions import NOTHING_OFFERED, Extensions, parse_extensions
from pyqmail.protocol.smtp_replies import Reply, ReplyReader, quoted_reply

UNAVAILABLE = 421  # the server is about to close the connection (RFC 5321 section 3.8)
GROUP_MAX = 16_384  # bytes of commands without a reply: what fits every socket's buffers (RFC 2920 section 3.1)
# 552 with a mailbox that is full or a message that is too long, not too many recipients (RFC 3463 section 3.3, 3.4)
_OF_MAILBOX = re.compile(rb"552[ -]5\.[23]\.")


@dataclass(frozen=True, slots=True)
class Await:
    """More bytes from the peer are needed: `Dialogue.feed` them."""


@dataclass(frozen=True, slots=True)
class Send:
    """One or more command lines to send."""

    line: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """The peer waits for a TLS handshake. Whoever cannot make one ends the conversation."""


@dataclass(frozen=True, slots=True)
class SendBody:
    """The message is wanted now, encoded and with its final dot."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The conversation is over: say QUIT, do not wait, and report (the message report, without its NUL).

    ``accepted``: the peer took the message and has said nothing else, so another one may follow in place of QUIT.
    """

    report: bytes
    accepted: bool = False


Step = Await | Send | StartTls | SendBody | Finish
_Talk = Generator[Step, Reply, Reply]


class Tls(Enum):
    """Whether a conversation in clear is to become one under TLS."""

    NEVER = "never, or it is under TLS already"
    MAY = "where STARTTLS is offered"
    MUST = "or not at all"


@dataclass(frozen=True, slots=True)
class Measure:
    """The message as the receiver counts it: bytes with CR LF (RFC 1870), None if nobody knows; is one above 127?"""

    size: int | None
    eight_bit: bool


def carriable(mailbox: bytes) -> bool:
    """Whether ``mailbox`` fits on a command line: a CR, LF or NUL in it would smuggle commands."""
    return not (b"\r" in mailbox or b"\n" in mailbox or b"\0" in mailbox)


def format_path(mailbox: bytes) -> bytes:
    """``mailbox`` between angle brackets, its local part quoted if need be; without an @ it stands as it is."""
    return b"<" + (address.quote(mailbox) if b"@" in mailbox else mailbox) + b">"


class Dialogue:
    """One message to one peer. `reports` are the recipient reports so far, in order, without their NULs.

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
    ) -> None:
        self.reports: list[bytes] = []
        self.last_code = 0  # of the last reply
        self.introduced = offered is not None  # greeting and EHLO or HELO are behind us
        self.offered = offered or NOTHING_OFFERED
        self.left: Sequence[bytes] = ()  # recipients that the peer does not take in one transaction
        self._peer = peer
        self._helohost = helohost
        self._sender = sender
        self._recipients = recipients
        self._tls = tls
        self._extended = extended
        self._measure = measure
        self._login = login
        self._replies = ReplyReader()
        self._script = self._converse()
        self._asked: Step | None = None
        self._finished: Finish | None = None

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
                    self._asked = self._script.send(reply)
            except StopIteration as end:
                report: bytes = end.value
                self._finished = Finish(report, accepted=report[:1] == b"K" and self._replies.idle())
                break
            if not isinstance(self._asked, Await):  # else the reply may be here already
                return self._asked
        return self._finished

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
        return (yield from self._transact())

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
        if self._extended:
            reply = yield Send(b"EHLO " + self._helohost + b"\r\n")
            if reply.code == 250:
                self.offered = parse_extensions(reply.text)
                return b""
            if reply.code == UNAVAILABLE:
                return self._connected(b"Z", b"my name was rejected", reply)
        reply = yield Send(b"HELO " + self._helohost + b"\r\n")
        return b"" if reply.code == 250 else self._connected(b"Z", b"my name was rejected", reply)

    def _secure(self) -> Generator[Step, Reply, bytes]:
        must = self._tls is Tls.MUST
        if b"STARTTLS" not in self.offered:
            return b"ZConnected to " + self._peer + b" but TLS was not offered. (#4.7.4)\n" if must else b""
        reply = yield Send(b"STARTTLS\r\n")
        if reply.code != 220:
            if must or reply.code == UNAVAILABLE:
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

    def _transact(self) -> Generator[Step, Reply, bytes]:
        recipients, self.left = self._divided()
        commands = _Commands(self._commands(recipients), together=b"PIPELINING" in self.offered)
        reply = yield from commands.next()
        if reply.code >= 400:
            return self._connected(self._severity(reply), b"sender was rejected", reply)
        accepted = False
        for recipient in recipients:
            if not carriable(recipient):
                self.reports.append(b"hRecipient address contains CR, LF or NUL, which SMTP cannot carry. (#5.1.3)\n")
                continue
            reply = yield from commands.next()
            accepted = self._note_recipient(reply, earlier=accepted) or accepted
        if not accepted:
            return b"DGiving up on " + self._peer + b".\n"
        reply = yield from commands.next()
        if reply.code >= 400:
            return self._verdict(self._severity(reply), self._peer + b" failed on DATA command", reply)
        reply = yield SendBody()
        if reply.code >= 400:
            return self._verdict(self._severity(reply), self._peer + b" failed after I sent the message", reply)
        return self._verdict(b"K", self._peer + b" accepted message", reply)

    def _divided(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """The recipients of this transaction, and those of later ones."""
        most = self.offered.limit(b"RCPTMAX") or len(self._recipients)
        return self._recipients[:most], self._recipients[most:]

    def _commands(self, recipients: Sequence[bytes]) -> list[bytes]:
        """What a transaction says up to the message."""
        mail = b"MAIL FROM:" + format_path(self._sender) + self._mail_parameters() + b"\r\n"
        rcpts = [b"RCPT TO:" + format_path(each) + b"\r\n" for each in recipients if carriable(each)]
        return [mail, *rcpts, b"DATA\r\n"]

    def _mail_parameters(self) -> bytes:
        """SIZE (RFC 1870) and BODY (RFC 6152), each only where the peer knows it: others refuse the whole MAIL."""
        size, body = b"SIZE" in self.offered, b"8BITMIME" in self.offered
        if self._measure is None or not (size or body):
            return b""
        measure = self._measure()
        parameters = b" SIZE=%d" % measure.size if size and measure.size is not None else b""
        return parameters + (b" BODY=8BITMIME" if body and measure.eight_bit else b"")

    def _note_recipient(self, reply: Reply, *, earlier: bool) -> bool:
        """Report the recipient that ``reply`` answers; whether it was accepted, as one ``earlier`` in the list was."""
        if reply.code < 400:
            self.reports.append(b"r")
            return True
        # too many for one transaction: RFC 5321 section 4.5.3.1.10
        too_many = earlier and reply.code == 552 and not _OF_MAILBOX.match(reply.text)
        letter = b"h" if reply.code >= 500 and not too_many else b"s"
        self.reports.append(letter + self._peer + b" does not like recipient.\n" + quoted_reply(reply))
        return False

    def _connected(self, letter: bytes, what: bytes, reply: Reply) -> bytes:
        return self._verdict(letter, b"Connected to " + self._peer + b" but " + what, reply)

    @staticmethod
    def _severity(reply: Reply) -> bytes:
        return b"D" if reply.code >= 500 else b"Z"

    @staticmethod
    def _verdict(letter: bytes, text: bytes, reply: Reply) -> bytes:
        return letter + text + b".\n" + quoted_reply(reply)


class _Commands:
    """Commands in their order, each with its reply; sent one by one, or ``together`` as far as buffers reach."""

    def __init__(self, lines: Sequence[bytes], *, together: bool) -> None:
        self._lines = lines
        self._together = together
        self._sent = 0
        self._answered = 0

    def next(self) -> _Talk:
        """The reply to the next command."""
        self._answered += 1
        if self._answered <= self._sent:
            return (yield Await())
        group = self._lines[self._sent]
        self._sent += 1
        while self._together and self._sent < len(self._lines) and len(group) < GROUP_MAX:
            group += self._lines[self._sent]
            self._sent += 1
        return (yield Send(group))
