"""One transaction of an SMTP client: MAIL, RCPT each, DATA, the message (RFC 5321 section 3.3).

With PIPELINING (RFC 2920) MAIL, RCPT and DATA go together; a 354 that then comes without any accepted recipient is
followed by no dot, so nothing can be taken. In place of DATA the message may be one chunk, the last (RFC 3030): its
octets are counted, so that nothing in it can end it early, and they are sent once a recipient was accepted.
Whoever drives it is told what to do next by a `Step`, and sends replies.
"""

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from pyqmail import address
from pyqmail.protocol.smtp_extensions import Extensions
from pyqmail.protocol.smtp_replies import Reply, quoted_reply
from pyqmail.system.typed import Protocol

EHLO, HELO = b"EHLO", b"HELO"
GROUP_MAX = 16_384  # bytes of commands without a reply: what fits every socket's buffers (RFC 2920 section 3.1)
NO_REQUIRETLS = b" does not offer REQUIRETLS, which this message needs. (#5.7.30)\n"
NO_SMTPUTF8 = b" does not know SMTPUTF8, which this address needs. (#5.6.7)\n"
NO_UTF8_HEADER = b" does not know SMTPUTF8, which the header needs. (#5.6.9)\n"
_OF_COMMANDS = range(500, 505)  # of a command and not of the mail (RFC 5321 section 4.2.2)
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
    """The message is wanted now, encoded and with its final dot; or BDAT, and the message as the ``chunk`` octets."""

    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The conversation is over: say QUIT, do not wait, and report (the message report, without its NUL).

    ``accepted``: the peer took the message and has said nothing else, so another one may follow in place of QUIT.
    """

    report: bytes
    accepted: bool = False


Step = Await | Send | StartTls | SendBody | Finish


@dataclass(frozen=True, slots=True)
class Measure:
    """The message as the receiver counts it: bytes with CR LF (RFC 1870), None if nobody knows; is one above 127?

    ``lines``: it is lines that end in LF alone, and an empty one ends the header. Then ``size`` is exact.
    """

    size: int | None
    eight_bit: bool
    lines: bool = False


def carriable(mailbox: bytes) -> bool:
    """Whether ``mailbox`` fits on a command line: a CR, LF or NUL in it would smuggle commands."""
    return not (b"\r" in mailbox or b"\n" in mailbox or b"\0" in mailbox)


def format_path(mailbox: bytes) -> bytes:
    """``mailbox`` between angle brackets, its local part quoted if need be; without an @ it stands as it is."""
    return b"<" + (address.quote_utf8(mailbox) if b"@" in mailbox else mailbox) + b">"


class Parameters(Protocol):
    """What else is said of a message, each parameter with a blank before it."""

    def of_mail(self, offered: Extensions, /) -> bytes:
        """With MAIL, to a peer that ``offered`` this."""

    def of_rcpt(self, offered: Extensions, recipient: bytes, /) -> bytes:
        """With RCPT of ``recipient``."""

    def refuses(self, offered: Extensions, sender: bytes, /) -> bytes:
        """Why such a peer cannot have the message, as the report ends; empty where it can."""

    def cannot_name(self, offered: Extensions, recipient: bytes, /) -> bool:
        """Whether such a peer cannot hear of ``recipient``."""


class Transaction:
    """One message for one peer that has said what it ``offered``.

    ``reports``: what became of each recipient so far, in order, without NULs. ``left``: recipients that the peer does
    not take in one transaction. ``measure`` is asked only where the peer offers an extension that needs it, and may
    raise MailFailure. ``chunking``: BDAT may be used. ``unchunked``: the peer has offered that, and does not know it.
    """

    HELLOS: tuple[bytes, ...] = (EHLO, HELO)  # which introduce us to such a peer, the preferred one first

    def __init__(
        self,
        peer: bytes,
        sender: bytes,
        recipients: Sequence[bytes],
        *,
        offered: Extensions,
        measure: Callable[[], Measure] | None = None,
        extras: Parameters | None = None,
        chunking: bool = False,
    ) -> None:
        most = offered.limit(b"RCPTMAX") or len(recipients)
        self.reports: list[bytes] = []
        self.left = recipients[most:]
        self.naming = False  # what comes next is an answer to RCPT
        self._peer = peer
        self._sender = sender
        self._recipients = recipients[:most]
        self._offered = offered
        self._measure = measure
        self._extras = extras
        self._chunking = chunking
        self.unchunked = False

    def run(self) -> Generator[Step, Reply, bytes]:
        """Yields what to do, is sent the replies, returns the message report without its NUL.

        Without recipients there is no transaction, and the peer is known to be ready for one.
        """
        if not self._recipients:
            return b"K" + self._peer + b" is ready for a message.\n"
        reason = self._extras.refuses(self._offered, self._sender) if self._extras is not None else b""
        if reason:
            return b"D" + self._peer + reason
        chunk = self._chunk()
        commands = _Commands(self._commands(with_data=chunk is None), together=b"PIPELINING" in self._offered)
        reply = yield from commands.next()
        if reply.code >= 400:
            return verdict(severity(reply), b"Connected to " + self._peer + b" but sender was rejected", reply)
        accepted = False
        self.naming = True
        for recipient in self._recipients:
            if not carriable(recipient):
                self.reports.append(b"hRecipient address contains CR, LF or NUL, which SMTP cannot carry. (#5.1.3)\n")
                continue
            if not self._sayable(recipient):
                self.reports.append(b"h" + self._peer + NO_SMTPUTF8)
                continue
            reply = yield from commands.next()
            accepted = self._note_recipient(reply, earlier=accepted) or accepted
        self.naming = False
        if not accepted:
            return b"DGiving up on " + self._peer + b".\n"
        if chunk is not None:
            return (yield from self._send_chunk(chunk))
        reply = yield from commands.next()
        if reply.code >= 400:
            return verdict(severity(reply), self._peer + b" failed on DATA command", reply)
        return (yield from self._send_message())

    def _send_message(self) -> Generator[Step, Reply, bytes]:
        """The message and the one answer to it."""
        return self._taken((yield SendBody()))

    def _taken(self, reply: Reply) -> bytes:
        if reply.code >= 400:
            return verdict(severity(reply), self._peer + b" failed after I sent the message", reply)
        return verdict(b"K", self._peer + b" accepted message", reply)

    def _chunk(self) -> int | None:
        """How many octets the message has as the one chunk; None where it has to go by DATA."""
        if not self._chunking or b"CHUNKING" not in self._offered or self._measure is None:
            return None
        measure = self._measure()
        return measure.size if measure.lines else None

    def _send_chunk(self, size: int) -> Generator[Step, Reply, bytes]:
        """The message behind BDAT, and the answer to both."""
        reply = yield SendBody(size)
        if reply.code in _OF_COMMANDS:
            self.unchunked = True
            return verdict(b"Z", self._peer + b" offers CHUNKING but does not know BDAT", reply)
        return self._taken(reply)

    def lost(self, text: bytes, *, sent: bool) -> bytes:
        """The message report where the connection died with ``text``; ``sent``: the final dot may have arrived."""
        return b"Z" + text

    def _commands(self, *, with_data: bool) -> list[bytes]:
        """What is said up to the message."""
        extras, offered = self._extras, self._offered
        mail = b"MAIL FROM:" + format_path(self._sender) + self._mail_parameters()
        named = [each for each in self._recipients if self._sayable(each)]
        rcpts = [b"RCPT TO:" + format_path(each) for each in named]
        if extras is not None:
            mail += extras.of_mail(offered)
            said = [extras.of_rcpt(offered, each) for each in named]
            rcpts = [rcpt + words for rcpt, words in zip(rcpts, said, strict=True)]
        return [line + b"\r\n" for line in (mail, *rcpts, *([b"DATA"] if with_data else []))]

    def _sayable(self, recipient: bytes) -> bool:
        """Whether the peer can hear of ``recipient``."""
        unknown = self._extras is not None and self._extras.cannot_name(self._offered, recipient)
        return carriable(recipient) and not unknown

    def _mail_parameters(self) -> bytes:
        """SIZE (RFC 1870) and BODY (RFC 6152), each only where the peer knows it: others refuse the whole MAIL."""
        size, body = b"SIZE" in self._offered, b"8BITMIME" in self._offered
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


def severity(reply: Reply) -> bytes:
    """The letter of a report about a message that ``reply`` refuses."""
    return b"D" if reply.code >= 500 else b"Z"


def verdict(letter: bytes, text: bytes, reply: Reply) -> bytes:
    """The report about a message that ``reply`` decides, without its NUL."""
    return letter + text + b".\n" + quoted_reply(reply)


class _Commands:
    """Commands in their order, each with its reply; sent one by one, or ``together`` as far as buffers reach."""

    def __init__(self, lines: Sequence[bytes], *, together: bool) -> None:
        self._lines = lines
        self._together = together
        self._sent = 0
        self._answered = 0

    def next(self) -> Generator[Step, Reply, Reply]:
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
