"""The receiving side of SMTP without descriptors: commands, addresses, the transaction, the message text.

RFC 5321 as qmail-smtpd(8) speaks it. A line ends in LF, one CR before it is dropped; message text must have CR LF.
"""

from collections.abc import Callable
from enum import Enum

ADDRESS_MAX = 899  # qmail-smtpd's limit, one byte below its 900-byte buffer
HOPS_MAX = 100  # this many Received and Delivered-To lines are a loop


def parse_command(line: bytes) -> tuple[bytes, bytes]:
    """The verb in upper case and its argument, from a line without its LF.

    One CR is dropped, a NUL ends the line, only the blank separates, trailing blanks stay in the argument.
    """
    if line.endswith(b"\r"):
        line = line[:-1]
    verb, _, argument = line.partition(b"\0")[0].partition(b" ")
    return verb.upper(), argument.lstrip(b" ")


def parse_address(argument: bytes) -> bytes:
    """The address in the argument of MAIL or RCPT, quotes and source route removed.

    After the first ``<`` up to an unquoted ``>``; without ``<``, after the first ``:`` up to an unquoted blank. What is
    missing is the empty address; a missing end is forgiven.
    """
    start = argument.find(b"<")
    if start >= 0:
        text, end = argument[start + 1 :], 0x3E
    else:
        text, end = argument.partition(b":")[2].lstrip(b" "), 0x20
    if text.startswith(b"@"):
        text = text.partition(b":")[2]
    return _unquote(text, end)


def _unquote(text: bytes, end: int) -> bytes:
    if b'"' not in text and b"\\" not in text:
        return text.partition(bytes((end,)))[0]
    address, quoted, escaped = bytearray(), False, False
    for byte in text:
        if escaped:
            address.append(byte)
            escaped = False
        elif byte == end and not quoted:
            break
        elif byte == 0x5C:
            escaped = True
        elif byte == 0x22:
            quoted = not quoted
        else:
            address.append(byte)
    return bytes(address)


class Effect(Enum):
    """What the program does besides sending the reply."""

    NONE = "nothing"
    QUIT = "end the session"
    DATA = "take a message"
    CLEAR = "forget the recipients"
    ACCEPTED = "remember a recipient"
    REFUSED = "log a refusal"


class Transaction:
    """What the client has said so far; ``sender`` is None before MAIL. The recipients themselves are the program's."""

    __slots__ = ("has_recipient", "sender", "sender_refused")

    def __init__(
        self, sender: bytes | None = None, *, sender_refused: bool = False, has_recipient: bool = False
    ) -> None:
        self.sender = sender
        self.sender_refused = sender_refused
        self.has_recipient = has_recipient


class Policy:
    """The decisions that a transaction needs, as functions of addresses."""

    __slots__ = ("accepts", "bad_sender", "exists", "greeting", "localize", "relay_suffix", "size_limit")

    def __init__(
        self,
        *,
        greeting: bytes,
        size_limit: int,
        relay_suffix: bytes | None,
        bad_sender: Callable[[bytes], bool],
        accepts: Callable[[bytes], bool],
        exists: Callable[[bytes], bool],
        localize: Callable[[bytes], bytes],
    ) -> None:
        self.greeting = greeting
        self.size_limit = size_limit
        self.relay_suffix = relay_suffix  # RELAYCLIENT: appended to each recipient, and everything is accepted
        self.bad_sender = bad_sender
        self.accepts = accepts  # may anyone send there
        self.exists = exists  # false only for what is known to be nobody's
        self.localize = localize


# The outcome of a command: the next transaction, the reply (CR LF included), its effect; the recipient that was
# accepted or refused, or the sender that was; and who said HELO or EHLO. A plain tuple, and plain classes above:
# dataclasses and typing would be a third of a cold start.
Step = tuple[Transaction, bytes, Effect, bytes, bytes | None]


def _outcome(
    transaction: Transaction,
    reply: bytes,
    effect: Effect = Effect.NONE,
    address: bytes = b"",
    helo: bytes | None = None,
) -> Step:
    return transaction, reply, effect, address, helo


SYNTAX = b"555 syntax error (#5.5.4)\r\n"
BAD_SENDER = b"553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)\r\n"
NOT_ALLOWED = b"553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)\r\n"
NOBODY = b"550 sorry, no mailbox here by that name (#5.1.1)\r\n"
TOO_BIG = b"552 sorry, that message size exceeds my databytes limit (#5.3.4)\r\n"
WANT_MAIL = b"503 MAIL first (#5.5.1)\r\n"
WANT_RCPT = b"503 RCPT first (#5.5.1)\r\n"
UNKNOWN = b"502 unimplemented (#5.5.1)\r\n"
OK = b"250 ok\r\n"
GATHERING = frozenset((b"MAIL", b"RCPT", b"RSET"))  # the replies that wait for the next read; all others go at once

_FIXED = {
    b"NOOP": OK,
    b"HELP": b"214 pyqmail: the qmail mail transfer agent\r\n",
    b"VRFY": b"252 send some mail, i'll try my best\r\n",
}
_EMPTY = Transaction()


def step(transaction: Transaction, verb: bytes, argument: bytes, policy: Policy) -> Step:
    """The outcome of one command (RFC 5321 section 4.1.4). Raises only what the policy's functions raise."""
    match verb:
        case b"MAIL":
            return _mail(transaction, argument, policy)
        case b"RCPT":
            return _rcpt(transaction, argument, policy)
        case b"DATA":
            return _data(transaction)
        case b"HELO":
            return _outcome(_EMPTY, b"250 " + policy.greeting + b"\r\n", Effect.CLEAR, helo=argument)
        case b"EHLO":
            return _outcome(_EMPTY, _ehlo(policy), Effect.CLEAR, helo=argument)
        case b"RSET":
            return _outcome(_EMPTY, b"250 flushed\r\n", Effect.CLEAR)
        case b"QUIT":
            return _outcome(transaction, b"221 " + policy.greeting + b"\r\n", Effect.QUIT)
        case _:
            return _outcome(transaction, _FIXED.get(verb, UNKNOWN))


def _ehlo(policy: Policy) -> bytes:
    return b"250-%s\r\n250-PIPELINING\r\n250-SIZE %d\r\n250 8BITMIME\r\n" % (policy.greeting, policy.size_limit)


def _mail(transaction: Transaction, argument: bytes, policy: Policy) -> Step:
    sender = policy.localize(parse_address(argument))
    if len(sender) > ADDRESS_MAX:
        return _outcome(transaction, SYNTAX)
    if policy.size_limit and _declared_size(argument) > policy.size_limit:
        return _outcome(transaction, TOO_BIG, Effect.REFUSED, sender)
    return _outcome(Transaction(sender, sender_refused=policy.bad_sender(sender)), OK, Effect.CLEAR)


def _declared_size(argument: bytes) -> int:
    """The SIZE parameter of MAIL (RFC 1870); 0 without one."""
    for word in argument.rpartition(b">")[2].upper().split():
        digits = word[5:]
        if word.startswith(b"SIZE=") and digits.isdigit() and len(digits) <= 20:
            return int(digits)
    return 0


def _rcpt(transaction: Transaction, argument: bytes, policy: Policy) -> Step:
    if transaction.sender is None:
        return _outcome(transaction, WANT_MAIL)
    recipient = policy.localize(parse_address(argument))
    if len(recipient) > ADDRESS_MAX:
        return _outcome(transaction, SYNTAX)
    if transaction.sender_refused:
        return _outcome(transaction, BAD_SENDER, Effect.REFUSED, recipient)
    if policy.relay_suffix is not None:
        recipient += policy.relay_suffix
    elif not policy.accepts(recipient):
        return _outcome(transaction, NOT_ALLOWED, Effect.REFUSED, recipient)
    elif not policy.exists(recipient):
        return _outcome(transaction, NOBODY, Effect.REFUSED, recipient)
    return _outcome(Transaction(transaction.sender, has_recipient=True), OK, Effect.ACCEPTED, recipient)


def _data(transaction: Transaction) -> Step:
    if transaction.sender is None:
        return _outcome(transaction, WANT_MAIL)
    if not transaction.has_recipient:
        return _outcome(transaction, WANT_RCPT)
    return _outcome(_EMPTY, b"354 go ahead\r\n", Effect.DATA)


class BareLineFeed(Exception):
    """A LF without its CR in message text: the session ends, or other servers could see other messages in it."""


class BodyDecoder:
    """Message text from the wire: CR LF becomes LF, one leading dot goes, a lone dot ends it.

    ``feed`` takes any chunks. The text is searched as if a CR LF stood before it, so that the first line is no special
    case; what might be the beginning of the end, CR LF dot CR LF, is held back until more has come.
    """

    _END = b"\r\n.\r\n"

    def __init__(self) -> None:
        self.done = False
        self.rest = b""  # what came after the end
        self.size = 0  # stored bytes
        self.hops = 0
        self._held = b"\r\n"
        self._first = True
        self._in_header = True
        self._line = b""

    def feed(self, data: bytes) -> bytes:
        """The text to store so far. Raises BareLineFeed."""
        wire = self._held + data
        end = wire.find(self._END)
        if end >= 0:
            self.done = True
            wire, self.rest = wire[: end + 2], wire[end + 5 :]
        else:
            held = next((n for n in (4, 3, 2, 1) if wire.endswith(self._END[:n])), 0)
            wire, self._held = (wire[:-held], wire[-held:]) if held else (wire, b"")
        if wire.count(b"\n") != wire.count(b"\r\n"):
            raise BareLineFeed
        if self._in_header:
            self._count_hops(wire)
        if b"\r\n." in wire:
            wire = wire.replace(b"\r\n.\r", b"\r\n..\r").replace(b"\r\n.", b"\r\n")
        text = wire.replace(b"\r\n", b"\n")
        if self._first and text:
            self._first = False
            text = text[1:]
        self.size += len(text)
        return text

    def _count_hops(self, wire: bytes) -> None:
        lines = (self._line + wire).split(b"\r\n")
        self._line = lines.pop()[:16]
        if self._first and lines:
            del lines[0]  # the CR LF that is not there
        for line in lines:
            if not line:
                self._in_header = False
                return
            if line[:8].lower() == b"received" or line[:9].lower() == b"delivered":
                self.hops += 1
