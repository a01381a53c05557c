"""rblsmtpd: turns away clients that a DNS list names, and runs an SMTP server for all others (rblsmtpd(1), RFC 5782).

What decides, in this order: $RBLSMTPD, then each -r and -a of the command line until one does. A client that is blocked
talks to a small SMTP server of its own, which takes every command but those that name a recipient or a message.
"""

import ipaddress
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyqmail.formats.printable import printable
from pyqmail.options import UsageError, parse_options
from pyqmail.protocol.dns import Answer
from pyqmail.stream.descriptors import DescriptorStream
from pyqmail.stream.lines import LineReader
from pyqmail.stream.stream import Stream, StreamEnded
from pyqmail.system.process import cannot_run, execute
from pyqmail.tcp.remote_name import Kind, SoftFailure, packed, resolver, reversed_labels

USAGE = 100
FAILED = 111
TEXT_MAX = 200  # what is kept of a reason
TIMEOUT_S = 60
LINE_MAX = 512  # of a command, whose first word is all that counts
NAME = b"rblsmtpd.local"
PASSED = frozenset((b"helo", b"ehlo", b"mail", b"rset", b"noop"))
LATER = b"temporary RBL lookup error"

Screen = Callable[[Mapping[bytes, bytes]], int | None]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line; ``lists`` are -r and -a with their bases, in order."""

    lists: tuple[tuple[bytes, bytes], ...]
    permanent: bool
    fail_closed: bool
    timeout_s: int
    program: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Why a client is turned away, for ever (553) or for now (451)."""

    text: bytes
    permanent: bool

    def reply(self) -> bytes:
        """The line without its end."""
        return (b"553 " if self.permanent else b"451 ") + self.text


def parse(argv: Sequence[bytes]) -> Options:
    """The options of a command line. Raises UsageError."""
    found, program = parse_options(argv[1:], b"bBcCRt:r:a:")
    flags = {b"b": False, b"c": False}
    timeout_s = TIMEOUT_S
    for letter, value in found:
        if letter.lower() in flags:
            flags[letter.lower()] = letter.islower()
        elif letter == b"t":
            digits = value[: len(value) - len(value.lstrip(b"0123456789"))]
            timeout_s = int(digits[:9] or b"0")
    if not program:
        raise UsageError(b"")
    lists = tuple((letter, base) for letter, base in found if letter in (b"r", b"a"))
    return Options(lists, flags[b"b"], flags[b"c"], timeout_s, tuple(program))


def decide(options: Options, environ: Mapping[bytes, bytes]) -> Block | None:
    """Whether the client is blocked; None if the program may have it."""
    given = environ.get(b"RBLSMTPD")
    if given is not None:
        return Block(printable(given.removeprefix(b"-")[:TEXT_MAX]), given.startswith(b"-")) if given else None
    permanent = options.permanent
    client = reversed_address(environ.get(b"TCPREMOTEIP", b""))
    for letter, base in options.lists:
        try:
            listing = look_up(client + b"." + base, environ)
        except SoftFailure as failure:
            if isinstance(failure, Refusal):
                _note(b"%b does not answer: %b" % (base, failure.text), environ)
            if letter == b"r" and options.fail_closed:
                return Block(LATER, permanent=False)
            if letter == b"a":
                if not options.fail_closed:
                    return None
                permanent = False
            continue
        if letter == b"a" and listing.named:
            return None
        if letter == b"r" and listing.text:
            return Block(listing.text, permanent)
    return None


class Refusal(SoftFailure):
    """A list says that it does not answer us, or is no list any more; ``text`` is printable."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text.decode("ascii"))
        self.text = text


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list says of a client: whether an A record names it, and the printable text of its TXT records."""

    named: bool
    text: bytes


def look_up(name: bytes, environ: Mapping[bytes, bytes]) -> Listing:
    """What the list says of ``name``. Raises SoftFailure where nobody can say, Refusal where the list does not want to.

    A list that has addresses but none that lists (RFC 5782 section 2.1) speaks of itself: 127.255.255.0/24 is how lists
    turn away whom they do not serve, 127.0.0.1 must never be listed, and addresses outside of 127.0.0.0/8 come from
    whoever owns the domain of a list that has ended. A list that has texts only is taken at its word.
    """
    try:
        by_address, by_text = resolver(environ).look_up([(name, Kind.A), (name, Kind.TXT)])
    except OSError as error:
        raise SoftFailure(str(error)) from error
    addresses = by_address.addresses if isinstance(by_address, Answer) else ()
    text = printable(b"".join(by_text.texts)[:TEXT_MAX]) if isinstance(by_text, Answer) else b""
    if addresses and not any(map(lists, addresses)):
        raise Refusal(text or ipaddress.ip_address(addresses[0]).compressed.encode("ascii"))
    if not addresses and not text:
        for found in (by_text, by_address):
            if isinstance(found, SoftFailure):
                raise found
    return Listing(bool(addresses), text)


def lists(packed: bytes) -> bool:
    """Whether the answer ``packed`` of a list means that the client is on it (RFC 5782 section 2.1)."""
    return packed[:1] == b"\x7f" and packed[:3] != b"\x7f\xff\xff" and packed != b"\x7f\0\0\1"


def reversed_address(ip: bytes) -> bytes:
    """The labels to look up for a client; text that is no address is turned round at its dots all the same."""
    try:
        return reversed_labels(packed(ip.decode("ascii")))
    except (OSError, ValueError):
        return b".".join(label for label in reversed(ip.split(b".")) if label)


def converse(block: Block, timeout_s: int) -> None:
    """Talk to the client on descriptors 0 and 1 until QUIT, the end, or ``timeout_s`` (0: for ever)."""
    stream = DescriptorStream(0, 1, timeout_s or None, shared=True)
    if timeout_s:
        stream.until(time.monotonic() + timeout_s)
    try:
        _answer(stream, b"250 " + NAME + b"\r\n", block.reply() + b"\r\n")
    except StreamEnded:
        return


def _answer(stream: Stream, yes: bytes, no: bytes) -> None:
    """Until QUIT. Raises StreamEnded."""
    stream.write(b"220 " + NAME + b"\r\n")
    lines = LineReader(stream, LINE_MAX, cut=True)
    verb = b""
    while verb != b"quit":
        verb = lines.line().removesuffix(b"\r").partition(b" ")[0].lower()
        stream.write(b"221 " + NAME + b"\r\n" if verb == b"quit" else yes if verb in PASSED else no)
    stream.flush()


def admit(options: Options, environ: Mapping[bytes, bytes]) -> int | None:
    """None if the program may have the client; else the client has been turned away: the exit code."""
    block = decide(options, environ)
    if block is None:
        return None
    _note(block.reply(), environ)
    converse(block, options.timeout_s)
    return 0


def screen(argv: Sequence[bytes]) -> tuple[Screen, tuple[bytes, ...]] | None:
    """For a server that runs us from memory: what to call for each connection, and the program after us."""
    try:
        options = parse(argv)
    except UsageError:
        return None  # executed, it says what is wrong
    return (lambda environ: admit(options, environ)), options.program


def _note(text: bytes, environ: Mapping[bytes, bytes]) -> None:
    _say(b"rblsmtpd: %b pid %d: %b\n" % (printable(environ.get(b"TCPREMOTEIP", b"")), os.getpid(), text))


def _say(line: bytes) -> None:
    try:
        os.write(2, line)
    except OSError:
        return


def main(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> int:
    """0 after a client was turned away; else it becomes the program. 100 for a bad call, 111 if it cannot run."""
    try:
        options = parse(argv)
    except UsageError as error:
        if error.text:
            _say(b"rblsmtpd: " + error.text + b"\n")
        _say(b"rblsmtpd: usage: rblsmtpd [ -bBcCR ] [ -t timeout ] [ -r base ] [ -a base ] smtpd [ arg ... ]\n")
        return USAGE
    code = admit(options, environ)
    if code is not None:
        return code
    try:
        execute(options.program, environ)
    except OSError as error:
        _say(cannot_run(b"rblsmtpd", options.program[0], error))
    return FAILED
