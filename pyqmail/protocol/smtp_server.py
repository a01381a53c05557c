"""The receiving side of SMTP without descriptors: commands, their order, addresses, extensions, the message text.

RFC 5321 as qmail-smtpd(8) speaks it. Who is welcome is decided elsewhere (incoming/checks). A line ends in LF, one CR
before it is dropped; message text must have CR LF.
"""

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from pyqmail.formats.hops import HopCounter

ADDRESS_MAX = 899  # qmail-smtpd's limit, one byte below its 900-byte buffer


def parse_command(line: bytes) -> tuple[bytes, bytes]:
    """The verb in upper case and its argument, from a line without its LF.

    One CR is dropped, a NUL ends the line, only the blank separates, trailing blanks stay in the argument.
    """
    line = line.removesuffix(b"\r")
    if 0 in line:  # a number, here and below: looking for bytes in bytes makes an exception first
        line = line.partition(b"\0")[0]
    verb, _, argument = line.partition(b" ")
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
    if 0x22 not in text and 0x5C not in text:
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
    """What the session does about a command besides sending the reply, or to find the reply."""

    NONE = "nothing"
    HELLO = "begin anew with a client of this name"
    SENDER = "begin a message of this sender"
    RECIPIENT = "add this recipient"
    DATA = "take the message"
    CHUNK = "take some of the message"
    TLS = "shake hands, and begin anew"
    AUTH = "find out who the client is"
    RESET = "forget the message"
    QUIT = "end the session"

    __hash__ = object.__hash__  # that of Enum asks for the name, and is no quick one


class State(Enum):
    """What the client may do next."""

    IDLE = "there is no sender"
    SENDER = "there is a sender, and nobody yet who gets the message"
    RECIPIENTS = "there is a recipient"
    CHUNKS = "some of the message is here"


class Offer(NamedTuple):
    """What a session has to offer at this moment; the parameters of the extensions come from here."""

    greeting: bytes
    size_limit: int
    tls: bool = False
    mechanisms: bytes | None = None  # of AUTH; empty: none before TLS; None: there is no AUTH
    chunking: bool = False
    recipients_max: int = 0  # of one message, 0 for any number
    dsn: bool = False
    smtputf8: bool = False
    requiretls: bool = False


# The extensions in the order of the answer to EHLO: a keyword, and its parameters or None where it is not offered.
EXTENSIONS: tuple[tuple[bytes, Callable[[Offer], bytes | None]], ...] = (
    (b"PIPELINING", lambda offer: b""),  # RFC 2920
    (b"SIZE", lambda offer: b" %d" % offer.size_limit),  # RFC 1870
    (b"8BITMIME", lambda offer: b""),  # RFC 6152
    (b"CHUNKING", lambda offer: b"" if offer.chunking else None),  # RFC 3030, without its BINARYMIME
    (b"SMTPUTF8", lambda offer: b"" if offer.smtputf8 else None),  # RFC 6531
    (b"DSN", lambda offer: b"" if offer.dsn else None),  # RFC 3461
    (b"REQUIRETLS", lambda offer: b"" if offer.requiretls else None),  # RFC 8689
    (b"STARTTLS", lambda offer: b"" if offer.tls else None),  # RFC 3207
    (b"AUTH", lambda offer: b" " + offer.mechanisms if offer.mechanisms else None),  # RFC 4954
    # A limit has at most six digits (RFC 9422 section 3), so that a larger one need not be said.
    (b"LIMITS", lambda offer: b" RCPTMAX=%d" % offer.recipients_max if 0 < offer.recipients_max < 10**6 else None),
)

# The effect of a command, its reply (CR LF included; empty where the session finds it), and the command's argument.
# Plain tuples and classes: dataclasses and typing would be a third of a cold start.
Step = tuple[Effect, bytes, bytes]

SYNTAX = b"555 syntax error (#5.5.4)\r\n"
WANT_MAIL = b"503 MAIL first (#5.5.1)\r\n"
WANT_RCPT = b"503 RCPT first (#5.5.1)\r\n"
WANT_LAST = b"503 the message must end first, BDAT LAST, or RSET (#5.5.1)\r\n"
NO_PARAMETERS = b"501 STARTTLS takes no parameters (#5.5.4)\r\n"
NO_AUTH_NOW = b"503 no auth during mail transaction (#5.5.0)\r\n"
GO_AHEAD = b"354 go ahead\r\n"
OK = b"250 ok\r\n"
CHUNK_TAKEN = b"250 ok, more octets\r\n"
READY_FOR_TLS = b"220 ready for tls\r\n"
GATHERING = frozenset((b"MAIL", b"RCPT", b"RSET"))  # the replies that wait for the next read; all others go at once


def step(state: State, verb: bytes, argument: bytes, offer: Offer) -> Step:
    """What one command does, by its order alone (RFC 5321 section 4.1.4). Never raises."""
    known = COMMANDS.get(verb)
    return UNIMPLEMENTED if known is None else known(state, argument, offer)


def _mail(state: State, argument: bytes, offer: Offer) -> Step:
    return _UNFINISHED if state is State.CHUNKS else (Effect.SENDER, b"", argument)


def _rcpt(state: State, argument: bytes, offer: Offer) -> Step:
    if state is State.IDLE:
        return Effect.NONE, WANT_MAIL, b""
    return _UNFINISHED if state is State.CHUNKS else (Effect.RECIPIENT, b"", argument)


def _data(state: State, argument: bytes, offer: Offer) -> Step:
    if state is State.RECIPIENTS:
        return Effect.DATA, b"", b""
    return _UNFINISHED if state is State.CHUNKS else (Effect.NONE, _wanting(state), b"")


def _bdat(state: State, argument: bytes, offer: Offer) -> Step:
    """Its octets follow, whatever the reply is."""
    return (Effect.CHUNK, _wanting(state), argument) if offer.chunking else UNIMPLEMENTED


def _helo(state: State, argument: bytes, offer: Offer) -> Step:
    return Effect.HELLO, b"250 " + offer.greeting + b"\r\n", argument


def _ehlo(state: State, argument: bytes, offer: Offer) -> Step:
    return Effect.HELLO, _ehlo_reply(offer), argument


def _starttls(state: State, argument: bytes, offer: Offer) -> Step:
    if not offer.tls:
        return UNIMPLEMENTED
    return (Effect.NONE, NO_PARAMETERS, b"") if argument else (Effect.TLS, b"", b"")


def _auth(state: State, argument: bytes, offer: Offer) -> Step:
    if offer.mechanisms is None:
        return UNIMPLEMENTED
    return (Effect.AUTH, b"", argument) if state is State.IDLE else (Effect.NONE, NO_AUTH_NOW, b"")


def _quit(state: State, argument: bytes, offer: Offer) -> Step:
    return Effect.QUIT, b"221 " + offer.greeting + b"\r\n", b""


def _always(effect: Effect, reply: bytes) -> Callable[[State, bytes, Offer], Step]:
    return lambda state, argument, offer: (effect, reply, b"")


_UNFINISHED: Step = (Effect.NONE, WANT_LAST, b"")
UNIMPLEMENTED: Step = (Effect.NONE, b"502 unimplemented (#5.5.1)\r\n", b"")
COMMANDS: dict[bytes, Callable[[State, bytes, Offer], Step]] = {
    b"MAIL": _mail,
    b"RCPT": _rcpt,
    b"DATA": _data,
    b"BDAT": _bdat,
    b"HELO": _helo,
    b"EHLO": _ehlo,
    b"STARTTLS": _starttls,
    b"AUTH": _auth,
    b"RSET": _always(Effect.RESET, b"250 flushed\r\n"),
    b"QUIT": _quit,
    b"NOOP": _always(Effect.NONE, OK),
    b"HELP": _always(Effect.NONE, b"214 pyqmail: the qmail mail transfer agent\r\n"),
    b"VRFY": _always(Effect.NONE, b"252 send some mail, i'll try my best\r\n"),
}


def _wanting(state: State) -> bytes:
    """Why there can be no message yet; empty where there can."""
    if state is State.IDLE:
        return WANT_MAIL
    return WANT_RCPT if state is State.SENDER else b""


def format_ehlo(offer: Offer) -> bytes:
    """The answer to EHLO: the greeting, and a line for each extension that is offered (RFC 5321 section 4.1.1.1)."""
    lines = [offer.greeting]
    for keyword, parameters in EXTENSIONS:
        found = parameters(offer)
        if found is not None:
            lines.append(keyword + found)
    return b"".join(b"250-%b\r\n" % line for line in lines[:-1]) + b"250 %b\r\n" % lines[-1]


_ehlo_reply = lru_cache(maxsize=16)(format_ehlo)  # the same for each session, but that there is TLS or not


def parse_parameters(argument: bytes) -> bytes:
    """What follows the address in the argument of MAIL or RCPT: words KEY or KEY=VALUE (RFC 5321 section 4.1.2)."""
    start = argument.find(b"<")
    if start < 0 or argument.count(b">") < 2:
        return argument.rpartition(b">")[2]
    quoted = escaped = False  # as in _unquote: the address may have a > in quotes, and so may a parameter
    for at in range(start + 1, len(argument)):
        byte = argument[at]
        if escaped:
            escaped = False
        elif byte == 0x3E and not quoted:
            return argument[at + 1 :]
        elif byte == 0x5C:
            escaped = True
        elif byte == 0x22:
            quoted = not quoted
    return b""


def names_any(parameters: bytes, keys: tuple[bytes, ...]) -> bool:
    """Whether one of ``keys``, upper case with their ``=``, may be among ``parameters``."""
    return bool(parameters) and any(word.startswith(keys) for word in parameters.upper().split())


def declared_size(parameters: bytes) -> int:
    """The SIZE parameter of MAIL (RFC 1870); 0 without one."""
    if not parameters:
        return 0
    for word in parameters.upper().split():
        digits = word[5:]
        if word.startswith(b"SIZE=") and digits.isdigit() and len(digits) <= 20:
            return int(digits)
    return 0


class BareLineFeed(Exception):
    """A LF without its CR in message text: the session ends, or other servers could see other messages in it."""


class BodyDecoder:
    """Message text from the wire: CR LF becomes LF, one leading dot goes, a lone dot ends it.

    ``feed`` takes any chunks. The text is searched as if a CR LF stood before it, so that the first line is no special
    case; what might be the beginning of the end, CR LF dot CR LF, is held back until more has come.
    """

    _END = b"\r\n.\r\n"

    def __init__(self, hops: HopCounter | None = None) -> None:
        """``hops`` counts header lines as they come, a leading dot included."""
        self.done = False
        self.rest = b""  # what came after the end
        self.hops = HopCounter() if hops is None else hops
        self._held = b"\r\n"
        self._first = True

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
        lines = wire.split(b"\r\n")
        if 0x0A in b"".join(lines):  # quicker than to count both, by far
            raise BareLineFeed
        text = b"\n".join(lines)
        if self.hops.in_header:
            self.hops.feed(text[1:] if self._first else text)
        if text.find(b"\n.") >= 0:
            text = text.replace(b"\n.\r", b"\n..\r").replace(b"\n.", b"\n")
        if self._first and text:
            self._first = False
            text = text[1:]
        return text
